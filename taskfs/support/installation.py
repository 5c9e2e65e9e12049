"""How to add an extra of taskfs to this installation: pipx first, a virtual environment second."""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# What each extra installs, as pyproject.toml says it. `pipx inject` takes packages, not extras, and
# taskfs itself is on no package index, so an extra cannot be added by the name of taskfs.
EXTRAS: Final = {
    "demo": "aiohttp>=3.10",
    "fsspec": "fsspec>=2024.6.1",
    "socks": "requests[socks]",
}
# A system's own Python often refuses pip (PEP 668, Debian 12), so pipx comes first.
PROGRAM_FIX: Final = (
    "in the directory of its sources: pipx install .; or, in a virtual environment: "
    "python3 -m pip install ."
)
_PIPX_METADATA: Final = "pipx_metadata.json"  # pipx keeps it in each of its environments


def extra_fix(extra: str) -> str:
    """Return the command that adds *extra* to the installation that runs, for an error's text."""
    requirement = shlex.quote(EXTRAS[extra])
    prefix = Path(sys.prefix)
    if (prefix / _PIPX_METADATA).exists():
        return f"pipx inject {shlex.quote(prefix.name)} {requirement}"
    if sys.prefix != sys.base_prefix or (prefix / "conda-meta").is_dir():
        python = shlex.quote(sys.executable)
        if find_spec("pip") is None:  # uv makes environments without it
            return f"uv pip install --python {python} {requirement}"
        return f"{python} -m pip install {requirement}"
    return (
        "in the directory of taskfs's sources: "
        f"pipx install . && pipx inject taskfs {requirement}; "
        f"or, in a virtual environment: python3 -m pip install . {requirement}"
    )
