"""What is known of tasks: here, the files of a running one."""
