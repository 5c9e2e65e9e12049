"""The benchmark: taskfs and its peers in turn, on the same work, against the same range server."""
