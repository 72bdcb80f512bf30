# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device attach`: put a disk behind a cache (2013: lc-attach)."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option, cache_id
from lcfs.commands.control import Tree

NAME = "attach"
HELP = "put a disk behind a cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)
    parser.add_argument("cache", metavar="CACHE_ID", type=cache_id, help="the cache, 1 to 254")


def run(options: argparse.Namespace) -> int:
    """Send attach."""
    Tree.chosen(options.mountpoint).send("attach", options.id, options.cache)
    return 0
