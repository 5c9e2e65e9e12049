"""Downloads of archives and of their members into a directory."""
