"""Fuzzing of the archive index and of the member reader."""
