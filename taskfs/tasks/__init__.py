"""The tasks of the account, the versions of their archives, and the files of running tasks."""
