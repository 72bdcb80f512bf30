# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache free`: let a cache go from a mounted lcfs (2013: lc-free-cache)."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_cache_argument, add_mount_option
from lcfs.commands.control import Tree

NAME = "free"
HELP = "write a cache's buffers and let its image go; no disk may be attached to it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_cache_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Point the cursor at the id, then free; both on one open file, with other command lines kept out."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("caches", options.id)
    with tree.locked(), tree.control() as control:
        control.send("switch_to", options.id)
        control.send("free_cache")
    return 0
