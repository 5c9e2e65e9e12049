"""The protocol of /dev/fuse."""
