# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache resume`: take one more cache into a mounted lcfs (2013: lc-resume-cache)."""

from __future__ import annotations

import argparse
import os

from lcfs.commands.arguments import add_cache_argument, add_image_argument, add_mount_option
from lcfs.commands.control import Tree

NAME = "resume"
HELP = "recover a cache image and add it to a mounted lcfs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_cache_argument(parser)
    add_image_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Point the cursor at the id, then resume; both on one open file, with other command lines kept out."""
    tree = Tree.chosen(options.mountpoint)
    with tree.locked(), tree.control() as control:
        control.send("switch_to", options.id)
        control.send("resume_cache", os.path.abspath(options.image))
    return 0
