# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache scrub`: have a mounted cache verify what is on its image."""

from __future__ import annotations

import argparse
import contextlib
import re
import time

from lcfs.commands.arguments import add_cache_argument, add_mount_option
from lcfs.commands.control import Tree
from lcfs.commands.failure import INTERRUPTED, CommandFailed
from lcfs.commands.pace import Pace, segments
from lcfs.commands.progress import run_interruptible

NAME = "scrub"
HELP = "verify every line on the image of a cache, while it is in use"

INTERVAL = 0.2
"""Seconds between two looks whether it has ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_cache_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Start a pass and wait for its end; Ctrl-C stops it. What was found is printed; 1 when that is damage."""
    tree = Tree.chosen(options.mountpoint)
    tree.require("caches", options.id)

    def state() -> str:
        return tree.read("caches", options.id, "scrub")

    def work() -> str:
        tree.store("1", "caches", options.id, "scrub")
        while (text := state()).startswith("running"):
            time.sleep(INTERVAL)
        return text

    def stop() -> None:
        with contextlib.suppress(CommandFailed):
            tree.store("0", "caches", options.id, "scrub")

    pace = Pace(segments)

    def progress() -> str:
        text = state()
        seen = re.match(r"running (\d+) of (\d+) segments", text)
        return f"cache {options.id}: {text}{pace(int(seen[2]) - int(seen[1])) if seen else ''}"

    text = run_interruptible(work, progress=progress, cancel=stop)
    print(f"cache {options.id}: {text}")
    if text.startswith("stopped"):
        return INTERRUPTED
    found = text.partition("; ")[2]
    return int(any(int(part.split()[0]) for part in found.split(", ")))
