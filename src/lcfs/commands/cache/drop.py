# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache drop`: write every dirty line of a cache to its backing."""

from __future__ import annotations

import argparse
import contextlib
from errno import ECANCELED

from lcfs.commands.arguments import add_cache_argument, add_mount_option
from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import INTERRUPTED, CommandFailed
from lcfs.commands.pace import Pace
from lcfs.commands.progress import run_interruptible

NAME = "drop"
HELP = "write every dirty line of a cache to the backings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_cache_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Write drop_caches; Ctrl-C leaves what is still dirty in the cache."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("caches", options.id)
    drop(tree, options.id)
    return 0


def drop(tree: Tree, id_: int, *, late: bool = False) -> None:
    """Write every dirty line of cache `id_`, with progress. Raises CommandFailed, after Ctrl-C with INTERRUPTED.

    `late` as for `run_interruptible`.
    """

    pace = Pace()

    def progress() -> str:
        dirty = int(tree.read("caches", id_, "nr_dirty_caches"))
        return f"cache {id_}: {dirty} dirty lines to write to the backings{pace(dirty)}"

    def cancel() -> None:
        for disk in tree.ids("block"):
            if tree.read("block", disk, "cache_id") == str(id_):
                with contextlib.suppress(CommandFailed):
                    tree.send("cancel", disk)

    try:
        run_interruptible(lambda: tree.store("1", "caches", id_, "drop_caches"), progress=progress, cancel=cancel, late=late)
    except MessageRefused as error:
        if error.errno == ECANCELED:
            left = tree.read("caches", id_, "nr_dirty_caches")
            raise CommandFailed(f"cache {id_} keeps {left} dirty lines", INTERRUPTED) from None
        raise
