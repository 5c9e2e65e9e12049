"""Downloads of archives and of their members."""
