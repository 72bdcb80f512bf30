# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device bind`: a loop device on a disk, with the options that suit it."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import loops_on

NAME = "bind"
HELP = "set up a loop device on a disk and print its name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)
    parser.add_argument(
        "--sector-size",
        type=int,
        choices=(512, 4096),
        help="logical sector size; 4096 keeps every write a whole line (default: 512)",
    )


def run(options: argparse.Namespace) -> int:
    """Run losetup(8) with direct I/O: the loop device's own page cache would hold every page a second time."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("block", options.id)
    disk = tree.path("devices", options.id)
    if not os.path.exists(disk):
        raise CommandFailed(f"disk {options.id} is not there ({tree.read('block', options.id, 'state')})")
    for loop in loops_on(tree.mountpoint):
        if loop.backing == disk:
            raise CommandFailed(f"disk {options.id} is bound to {loop.name} already; release it: losetup -d {loop.name}")
    command = [losetup(), "--find", "--show", "--direct-io=on"]
    if options.sector_size is not None:
        command.append(f"--sector-size={options.sector_size}")
    result = subprocess.run([*command, disk], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CommandFailed(f"disk {options.id} could not be bound: {result.stderr.strip()}")
    print(result.stdout, end="")
    return 0


def losetup() -> str:
    """The path of losetup(8). Raises CommandFailed where it is not installed."""
    found = shutil.which("losetup", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise CommandFailed("losetup is not installed; install the package mount or util-linux")
    return found
