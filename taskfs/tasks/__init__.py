"""The tasks of the account and the versions of their archives."""
