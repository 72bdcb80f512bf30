# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device create`: a new disk on a backing (2013: lc-create)."""

from __future__ import annotations

import argparse
import os

from lcfs.commands import arguments
from lcfs.commands.control import Tree

NAME = "create"
HELP = "make a disk on a backing, which is created when missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    arguments.add_mount_option(parser)
    arguments.add_disk_argument(parser)
    parser.add_argument("path", metavar="PATH", type=arguments.path, help="its backing: a file or block device")
    parser.add_argument("--size", type=arguments.size, help="bytes, or with K, M, G, T (default: that of PATH, or 1G)")
    parser.add_argument("--cache", metavar="ID", type=arguments.cache_id_or_none, help="attach it to this cache")
    parser.add_argument("--name", help="its name, 1 to 64 bytes")


def run(options: argparse.Namespace) -> int:
    """Send create."""
    words: list[str | int] = ["create", options.id, os.path.abspath(options.path)]
    if options.size is not None:
        words.append(options.size)
    if options.cache:
        words.append(f"cache={options.cache}")
    if options.name is not None:
        words.append(f"name={options.name}")
    Tree.chosen(options.mountpoint).send(*words)
    return 0
