# SPDX-License-Identifier: GPL-2.0-or-later
"""Make docs/top.svg: what `lcfs top` shows of a real mount under a real load.

    sudo .venv/bin/python scripts/screens.py

In a mount namespace of its own, where /mnt is an empty file system in memory: the paths in the picture are those of the
README, and nothing is left behind.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from lcfs.commands.control import Tree
from lcfs.commands.top_model import History, look
from lcfs.commands.top_screen import View, screen

PICTURE = Path(__file__).parent.parent / "docs" / "top.svg"
MOUNTPOINT = Path("/mnt/lc")
SIZE = (80, 24)
LOOKS = 40
PAUSE = 0.25
"""Seconds between two looks."""
INSIDE = "--inside"
"""Says that this is the namespace."""
LCFS = (sys.executable, "-m", "lcfs")


def main() -> int:
    """The exit code."""
    if sys.argv[1:] != [INSIDE]:
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, INSIDE])
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
    os.chdir("/mnt")
    MOUNTPOINT.mkdir()
    disks = ["--device", "1=vm.raw,size=256M,name=vm", "--device", "2=db.raw,size=128M,name=db"]
    subprocess.run([*LCFS, "mount", MOUNTPOINT, "--cache", "ssd.img", "--cache-size", "64M", *disks], check=True)
    try:
        PICTURE.write_text("\n".join(line.rstrip() for line in picture().rstrip().splitlines()) + "\n")
    finally:
        subprocess.run([*LCFS, "umount", MOUNTPOINT], check=True)
    return 0


def picture() -> str:
    """The last of many looks, as SVG."""
    tree, history, numbers = Tree(str(MOUNTPOINT)), History(), random.Random(1)
    with open(MOUNTPOINT / "devices/1", "r+b", buffering=0) as vm, open(MOUNTPOINT / "devices/2", "r+b", buffering=0) as db:
        for number in range(LOOKS):
            for _ in range(numbers.randrange(50, 700)):
                vm.seek(numbers.randrange(60_000) * 4096)
                vm.write(numbers.randbytes(4096))
            for _ in range(30):
                db.seek(numbers.randrange(30_000) * 4096)
                db.write(numbers.randbytes(8192))
                os.fdatasync(db)
                db.seek(numbers.randrange(30_000) * 4096)
                db.read(4096)
            found = look(tree)
            history.add(found)
            if number < LOOKS - 1:
                time.sleep(PAUSE)
    view = View(str(MOUNTPOINT), found, history, time.time(), PAUSE, cache_id=1, disk_id=1)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=SIZE[0], height=SIZE[1], file=nowhere, force_terminal=True, highlight=False)
        for line in screen(view, *SIZE):
            console.print(line, no_wrap=True, overflow="crop")
        return console.export_svg(title="lcfs top /mnt/lc", unique_id="top")


if __name__ == "__main__":
    sys.exit(main())
