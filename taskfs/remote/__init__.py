"""HTTP to the task API and to the object store."""
