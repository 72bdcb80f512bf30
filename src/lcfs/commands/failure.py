# SPDX-License-Identifier: GPL-2.0-or-later
"""How a verb ends when it could not do its work, and the exit codes it may use."""

from __future__ import annotations

FAILED = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as a shell says it."""

MOUNT_USAGE = 1
MOUNT_INTERRUPTED = 8
MOUNT_FAILED = 32
MOUNT_SOME = 64
"""mount(8) and umount(8), "EXIT STATUS"."""

CHECK_CORRECTED = 1
CHECK_ERRORS_LEFT = 4
CHECK_OPERATIONAL = 8
CHECK_USAGE = 16
CHECK_CANCELLED = 32
"""fsck(8), "EXIT STATUS"."""


class CommandFailed(Exception):
    """One sentence for stderr (the value and the remedy) and the exit code."""

    def __init__(self, sentence: str, exit_code: int = FAILED) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
