"""Hatchling build hook: add the manual page, rendered from the help texts, to each wheel."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPage(BuildHookInterface):  # type: ignore[misc]  # hatchling is present only in a build
    """Adds share/man/man1/taskfs.1 to the wheel's data files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, self.root)
        try:
            from taskfs.cli.main import taskfs
            from taskfs.cli.roff import format_manual
        finally:
            sys.path.remove(self.root)
        self._folder = tempfile.TemporaryDirectory()
        page = Path(self._folder.name) / "taskfs.1"
        page.write_text(format_manual(taskfs))
        build_data["shared_data"][str(page)] = "share/man/man1/taskfs.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()
