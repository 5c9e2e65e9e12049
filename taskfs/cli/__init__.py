"""The command line: one module per command, named after it, and the modules that they share."""
