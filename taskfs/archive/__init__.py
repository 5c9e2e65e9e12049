"""One version of a remote ZIP archive."""
