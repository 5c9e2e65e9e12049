"""The commands that install taskfs or one of its extras, for error messages."""

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# The requirement of each extra, as in pyproject.toml. `pipx inject` takes packages, and taskfs
# is on no package index, so an extra cannot be named as `taskfs[demo]`.
EXTRAS: Final = {
    "demo": "aiohttp>=3.10",
    "fsspec": "fsspec>=2024.6.1",
    "live": "aiortc>=1.9,<2",
    "socks": "requests[socks]",
}
# pipx comes first, because the system's Python often refuses pip (PEP 668, Debian 12).
INSTALL_HINT: Final = (
    "in the directory of its sources: pipx install .; or, in a virtual environment: "
    "python3 -m pip install ."
)
_PIPX_METADATA: Final = "pipx_metadata.json"  # in each environment of pipx


def install_hint(extra: str) -> str:
    """Return the command that adds *extra* to the running installation."""
    requirement = shlex.quote(EXTRAS[extra])
    prefix = Path(sys.prefix)
    if (prefix / _PIPX_METADATA).exists():
        return f"pipx inject {shlex.quote(prefix.name)} {requirement}"
    if sys.prefix != sys.base_prefix or (prefix / "conda-meta").is_dir():
        python = shlex.quote(sys.executable)
        if find_spec("pip") is None:  # environments of uv have no pip
            return f"uv pip install --python {python} {requirement}"
        return f"{python} -m pip install {requirement}"
    return (
        "in the directory of taskfs's sources: "
        f"pipx install . && pipx inject taskfs {requirement}; "
        f"or, in a virtual environment: python3 -m pip install . {requirement}"
    )
