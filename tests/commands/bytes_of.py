# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading disks and backings."""

from pathlib import Path


def first_bytes(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file that is large and mostly hole."""
    with open(path, "rb") as file:
        return file.read(count)
