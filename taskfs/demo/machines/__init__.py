"""The machines of the embedded cloud: running tasks whose files are read over a data channel."""
