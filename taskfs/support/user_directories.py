"""The user's directories of taskfs: cache, configuration and log."""

from pathlib import Path


def user_directory(kind: str) -> Path | None:
    """Return the `cache`, `config` or `log` directory of taskfs, None if there is no home."""
    import platformdirs

    try:
        path = Path(getattr(platformdirs, f"user_{kind}_dir")("taskfs"))
    except RuntimeError:  # no HOME, and the password database does not have the user
        return None
    return path if path.is_absolute() else None  # older platformdirs return a relative path
