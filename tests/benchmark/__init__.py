"""The benchmark: taskfs and its peers run the same workloads against the same range server."""
