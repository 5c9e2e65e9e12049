"""The embedded cloud: an HTTP server on loopback with the task API, its object store and tasks."""
