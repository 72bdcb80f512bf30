# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache drop`: write every dirty line of a cache to its backing."""

from __future__ import annotations

import argparse
import contextlib
from errno import ECANCELED

from lcfs.commands.arguments import add_cache_argument, add_mount_option
from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import INTERRUPTED, CommandFailed
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

    def progress() -> str:
        dirty = tree.read("caches", options.id, "nr_dirty_caches")
        return f"cache {options.id}: {dirty} dirty lines to write to the backings"

    def cancel() -> None:
        for disk in tree.ids("block"):
            if tree.read("block", disk, "cache_id") == str(options.id):
                with contextlib.suppress(CommandFailed):
                    tree.send("cancel", disk)

    try:
        run_interruptible(lambda: tree.store("1", "caches", options.id, "drop_caches"), progress=progress, cancel=cancel)
    except MessageRefused as error:
        if error.errno == ECANCELED:
            left = tree.read("caches", options.id, "nr_dirty_caches")
            raise CommandFailed(f"cache {options.id} keeps {left} dirty lines", INTERRUPTED) from None
        raise
    return 0
