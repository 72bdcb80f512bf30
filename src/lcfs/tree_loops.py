# SPDX-License-Identifier: GPL-2.0-or-later
"""Which loop devices are bound to a file of the tree, as sysfs tells it.

sysfs shows the path a loop device was bound to. That is read and compared as text: opening the loop device or looking
at the file would send a request to the very process that asks. The kernel appends ` (deleted)` once the file's name
is gone, and drops the mount point from the path after a lazy unmount, so neither is mistaken for a live one.
"""

from __future__ import annotations

import glob
import os


class LoopDevices:
    """The loop devices on the tree mounted at the absolute path `mountpoint`."""

    def __init__(self, mountpoint: str, sys_block: str = "/sys/block") -> None:
        self._mountpoint = mountpoint
        self._sys_block = sys_block

    def bound_to(self, name: str) -> list[str]:
        """`major:minor` of each loop device bound to `name` (`devices/1`), in the order of their numbers."""
        wanted = os.fsencode(os.path.join(self._mountpoint, name)) + b"\n"
        found = []
        for backing_file in glob.glob(f"{self._sys_block}/loop*/loop/backing_file"):
            try:
                with open(backing_file, "rb") as file:
                    if file.read() != wanted:
                        continue
                with open(f"{os.path.dirname(os.path.dirname(backing_file))}/dev", encoding="ascii") as file:
                    found.append(file.read().strip())
            except OSError:
                continue  # let go just now
        return sorted(found, key=lambda device: [int(number) for number in device.split(":")])
