"""The remote side: the data channel to the machine of a running task."""
