# SPDX-License-Identifier: GPL-2.0-or-later
"""Part of building the wheel: shell completions, made from the grammar itself so that they cannot be out of date."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import shtab
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACES = {
    "bash": "share/bash-completion/completions/lcfs",
    "zsh": "share/zsh/site-functions/_lcfs",
    "fish": "share/fish/vendor_completions.d/lcfs.fish",
}


class Completions(BuildHookInterface[Any]):
    """Adds a file per shell to the wheel's shared data."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together; `editable` installs no shared data."""
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root, "src")))
        from lcfs.commands.command_line import build_parser

        self._directory = tempfile.TemporaryDirectory()
        for shell, place in PLACES.items():
            file = Path(self._directory.name, shell)
            file.write_text(shtab.complete(build_parser(), shell))
            build_data["shared_data"][str(file)] = place

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel has them now."""
        if version != "editable":
            self._directory.cleanup()
