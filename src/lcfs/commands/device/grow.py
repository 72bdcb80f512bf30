# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device grow`: a longer disk, while it is in use; what is bound to it follows."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
from errno import ECANCELED

from lcfs.commands.arguments import add_disk_argument, add_mount_option, size
from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.device.bind import losetup
from lcfs.commands.failure import INTERRUPTED, CommandFailed
from lcfs.commands.mounts import loops_on
from lcfs.commands.progress import run_interruptible

NAME = "grow"
HELP = "make a disk longer while it is in use; loop devices bound to it follow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)
    parser.add_argument(
        "size",
        metavar="SIZE",
        nargs="?",
        type=size,
        help="bytes, or with K, M, G, T; a backing that is a file is made so long (default: what the backing has by now)",
    )


def run(options: argparse.Namespace) -> int:
    """Send grow, then have the loop devices look again."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("block", options.id)
    _grow(tree, options.id, options.size)
    disk, wanted = tree.path("devices", options.id), int(tree.read("block", options.id, "size"))
    # older kernels give a loop device the size that was last asked for, and this asks for it
    troubles = (
        [] if os.stat(disk).st_size == wanted else [f"{disk} keeps its size until lcfs is mounted anew (writeback_cache)"]
    )
    for loop in loops_on(tree.mountpoint):
        if loop.backing == disk and (trouble := _follow(loop.name, wanted)):
            troubles.append(trouble)
    if troubles:
        raise CommandFailed(f"disk {options.id} has {wanted} bytes, but {', and '.join(troubles)}")
    print(f"disk {options.id}: {wanted} bytes")
    return 0


def _grow(tree: Tree, id_: int, wanted: int | None) -> None:
    def cancel() -> None:
        with contextlib.suppress(CommandFailed):
            tree.send("cancel", id_)

    words = [wanted] if wanted is not None else []
    try:
        run_interruptible(
            lambda: tree.send("grow", id_, *words),
            progress=lambda: f"disk {id_}: waiting for its backing, and for requests under way",
            cancel=cancel,
        )
    except MessageRefused as error:
        if error.errno == ECANCELED:
            raise CommandFailed(f"disk {id_} keeps its size", INTERRUPTED) from None
        raise


def _follow(name: str, wanted: int) -> str:
    """Have a loop device take over the size of its disk; why it did not, or nothing."""
    done = subprocess.run([losetup(), "-c", name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{name} did not follow ({done.stderr.strip()}); as root: losetup -c {name}"
    with open(f"/sys/block/{os.path.basename(name)}/size", encoding="ascii") as sectors:
        found = int(sectors.read()) * 512
    return "" if found == wanted else f"{name} has {found} bytes; bind it anew"
