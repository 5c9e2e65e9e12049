"""The state of tasks: the files of a running one."""
