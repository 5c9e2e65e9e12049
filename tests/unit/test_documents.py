"""The documents name modules, files and scripts that exist."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "taskfs"
DOCUMENTS: Final = sorted((PACKAGE / "docs").glob("*.md"))
_ROW: Final = re.compile(r"^\| `(?:taskfs/|(\w+/))` \| [^|]* \| (.*) \|$", re.MULTILINE)
_NAME: Final = re.compile(r"`((?:\w+/)*\w+)`")


def test_the_table_of_packages_names_modules_that_exist() -> None:
    """Each module in the table of architecture.md is in its package."""
    rows = _ROW.findall((PACKAGE / "docs/architecture.md").read_text())
    assert len(rows) > 8
    missing = []
    for package, modules in rows:
        place = PACKAGE / package
        for part in re.sub(r"\([^)]*\)", "", modules).split(";"):
            sub = re.match(r"\s*`(\w+/\w+)/`:", part)
            base = PACKAGE / sub[1] if sub else place
            for name in _NAME.findall(part[sub.end() :] if sub else part):
                if not any((base / f"{name}{end}").exists() for end in (".py", "/__init__.py")):
                    missing.append(f"{base.relative_to(ROOT)}/{name}")
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_paths_in_documents_exist(document: Path) -> None:
    """Each path below taskfs/, tests/ or scripts/, and each `package/module`, exists."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    missing = []
    for quoted in re.findall(r"`([\w./-]+)`", text):
        first = quoted.split("/")[0]
        if quoted.startswith(("taskfs/", "tests/", "scripts/")) and "…" not in quoted:
            if not (ROOT / quoted).exists():
                missing.append(quoted)
        elif "/" in quoted.rstrip("/") and first in packages:
            place = PACKAGE / quoted
            if not (place.is_dir() or place.with_name(place.name + ".py").exists()):
                missing.append(quoted)
    assert missing == []
