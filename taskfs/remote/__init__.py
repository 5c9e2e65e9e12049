"""HTTP to the task API and to the object store, and data channels to machines of running tasks."""
