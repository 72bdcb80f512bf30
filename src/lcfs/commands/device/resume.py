# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device resume`: let a suspended disk go on."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_disk_argument, add_mount_option
from lcfs.commands.control import Tree

NAME = "resume"
HELP = "let a suspended disk go on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_disk_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Send resume."""
    Tree.chosen(options.mountpoint).send("resume", options.id)
    return 0
