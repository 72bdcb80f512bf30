# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache stats`: the sixteen counters of a cache."""

from __future__ import annotations

import argparse

from lcfs.commands.arguments import add_cache_argument, add_json_option, add_mount_option
from lcfs.commands.control import Tree
from lcfs.commands.listing import print_json, print_table

NAME = "stats"
HELP = "print the sixteen counters of a cache"
COLUMNS = ("write", "hit", "on_buffer", "fullsize", "count")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_json_option(parser)
    add_cache_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print caches/<id>/stats with a heading, or as JSON."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("caches", options.id)
    rows = [[int(word) for word in line.split()] for line in tree.read("caches", options.id, "stats").splitlines()]
    if options.json:
        print_json("stats", [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(COLUMNS, rows)
    return 0
