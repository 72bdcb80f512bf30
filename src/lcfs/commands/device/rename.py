# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device rename`: another name for a disk, which it keeps over mounts."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree

NAME = "rename"
HELP = "give a disk another name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)
    parser.add_argument("name", metavar="NAME", help="1 to 64 bytes without slash and line break")


def run(options: argparse.Namespace) -> int:
    """Write the attribute."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("block", options.id)
    tree.store(options.name, "block", options.id, "name")
    return 0
