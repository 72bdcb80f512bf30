# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device remove`: drain a disk and take it out of the tree; its backing stays (2013: lc-remove)."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree
from lcfs.commands.device.drain import drain

NAME = "remove"
HELP = "detach a disk and forget it; its backing stays as it is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Send remove; Ctrl-C during the drain leaves the disk as it was."""
    drain(Tree.chosen(options.mountpoint), "remove", options.id)
    return 0
