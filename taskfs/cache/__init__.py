"""Blocks of remote objects in memory and on disk, and their read-ahead."""
