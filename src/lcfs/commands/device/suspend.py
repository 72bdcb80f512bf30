# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device suspend`: hold a disk's new requests until it is resumed."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree

NAME = "suspend"
HELP = "hold new requests of a disk until lcfs device resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)
    parser.add_argument("--noflush", action="store_true", help="do not make what was accepted durable first")


def run(options: argparse.Namespace) -> int:
    """Send suspend."""
    Tree.chosen(options.mountpoint).send("suspend", options.id, *(["noflush"] if options.noflush else []))
    return 0
