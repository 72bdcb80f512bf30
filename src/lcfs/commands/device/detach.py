# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device detach`: drain a disk while it is in use, then let it do without its cache (2013: lc-detach)."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree
from lcfs.commands.device.drain import drain

NAME = "detach"
HELP = "write a disk's dirty lines to its backing, then take it from its cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Send detach; Ctrl-C leaves the disk attached."""
    drain(Tree.chosen(options.mountpoint), "detach", options.id)
    return 0
