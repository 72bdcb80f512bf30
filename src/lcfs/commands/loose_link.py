# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a file is to be created, a link could lead that anywhere: whoever laid it out would choose the place."""

from __future__ import annotations

import os

from lcfs.commands.failure import FAILED, CommandFailed


def require_no_loose_link(path: str, exit_code: int = FAILED) -> None:
    """Raise CommandFailed where `path` is a link to what does not exist."""
    if os.path.islink(path) and not os.path.exists(path):
        raise CommandFailed(
            f"{path} is a link to {os.readlink(path)}, which does not exist, and nothing is created through a link; "
            "give the path itself",
            exit_code,
        )
