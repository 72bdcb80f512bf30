# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs iostat`: what the caches are doing, in the manner of zpool iostat; read from MNT/metrics alone."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from lcfs.commands.control import Tree
from lcfs.commands.counts import LINE, NOTHING, Look, counted, rates
from lcfs.commands.exposition import samples
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import is_dead
from lcfs.commands.rounds import LONGEST, SHORTEST, rounds, short_percent, short_size

NAME = "iostat"
HELP = "show rates and hits of the caches, once or every INTERVAL seconds"

HEADING = ("", "dirty", "share", "read/s", "write/s", "rhit", "whit", "migr/s", "flush/s", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    parser.add_argument("-v", "--verbose", action="store_true", help="a row for each disk, too")
    parser.add_argument("-H", "--script", action="store_true", help="no heading, tabs between the columns, exact numbers")
    parser.add_argument("-y", "--omit-first", action="store_true", help="leave out the first report, which is since the mount")
    parser.add_argument("-b", "--bytes", action="store_true", help="exact bytes instead of K, M, G")
    parser.add_argument("-J", "--json", action="store_true", help="a JSON document on a line for each report")
    parser.add_argument("words", metavar="[MNT] [INTERVAL [COUNT]]", nargs="*", help="seconds between reports, and how many")


def run(options: argparse.Namespace) -> int:
    """Print reports until there were COUNT, the mount is gone, or Ctrl-C."""
    mountpoint, interval, count = parse_words(options.words)
    tree = Tree.chosen(mountpoint)
    began = os.stat(tree.mountpoint).st_mtime  # when it was mounted; nothing else changes it
    before = Look(began, {}, {})
    printed = 0
    try:
        for number in rounds(interval, count + 1 if options.omit_first and count else count):
            try:
                now = look(tree)
            except CommandFailed:
                if number and is_dead(tree.mountpoint):
                    return 0
                raise
            if number or not options.omit_first:
                _print(options, before, now, heading=printed % _page(options.verbose, now) == 0)
                printed += 1
            before = now
    except KeyboardInterrupt:
        return 0
    return 0


def parse_words(words: Sequence[str]) -> tuple[str | None, float, int]:
    """`[MNT] [INTERVAL [COUNT]]`: mount point, seconds (0: one report), number of reports (0: no end).

    A mount point that looks like a number is written ./5. Raises CommandFailed.
    """
    rest = list(words)
    mountpoint = rest.pop(0) if rest and not _is_number(rest[0]) else None
    if len(rest) > 2 or not all(map(_is_number, rest)):
        raise CommandFailed(f"{' '.join(words)!r} is not understood; say: lcfs iostat [MNT] [INTERVAL [COUNT]]", 2)
    interval = float(rest[0]) if rest else 0.0
    if rest and not SHORTEST <= interval <= LONGEST:
        raise CommandFailed(f"interval {rest[0]} is out of range; give 0.1 to 86400 seconds", 2)
    if len(rest) == 2 and not (rest[1].isdecimal() and 0 < int(rest[1]) < 1 << 31):
        raise CommandFailed(f"count {rest[1]} is not a whole number from 1 on", 2)
    return mountpoint, interval, int(rest[1]) if len(rest) == 2 else 0


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", word, re.ASCII) is not None and len(word) < 16


def look(tree: Tree) -> Look:
    """The counters now. Raises CommandFailed."""
    return counted(samples(tree.read("metrics")))


def report(before: Look, now: Look) -> dict[str, Any]:
    """One report as JSON."""
    seconds = max(now.at - before.at, 1e-3)
    return {
        "time": round(now.at, 3),
        "seconds": round(seconds, 3),
        "caches": [
            {"id": id_, **rates(before.caches.get(id_, NOTHING), counts, seconds)} for id_, counts in sorted(now.caches.items())
        ],
        "devices": [
            {"id": id_, "state": counts.state, "dirty_bytes": counts.dirty * LINE, "errors": counts.errors}
            for id_, counts in sorted(now.devices.items())
        ],
    }


def _print(options: argparse.Namespace, before: Look, now: Look, *, heading: bool) -> None:
    found = report(before, now)
    if options.json:
        print(json.dumps(found), flush=True)
        return
    exact = options.bytes or options.script
    rows = [_cache_row(row, exact) for row in found["caches"]]
    if options.verbose:
        rows += [_device_row(row, exact) for row in found["devices"]]
    if options.script:
        print("\n".join("\t".join(row) for row in rows), flush=True)
        return
    lines = [_align(HEADING)] if heading else []
    print("\n".join(lines + [_align(row) for row in rows]), flush=True)


def _cache_row(row: dict[str, Any], exact: bool) -> tuple[str, ...]:
    return (
        f"cache {row['id']}",
        _size(row["dirty_bytes"], exact),
        short_percent(row["dirty_percent"]),
        _size(row["read_bytes_per_second"], exact),
        _size(row["write_bytes_per_second"], exact),
        short_percent(row["read_hit_percent"]),
        short_percent(row["write_hit_percent"]),
        _size(row["migrated_bytes_per_second"], exact),
        f"{row['flushes_per_second']:.0f}",
        row["state"],
    )


def _device_row(row: dict[str, Any], exact: bool) -> tuple[str, ...]:
    return f"disk {row['id']}", _size(row["dirty_bytes"], exact), *("-",) * 7, row["state"]


def _align(row: Sequence[str]) -> str:
    cells = [row[0].ljust(9), *(cell.rjust(7) for cell in row[1:-1]), row[-1]]
    return " ".join(cells).rstrip()


def _size(number: float, exact: bool) -> str:
    return f"{number:.0f}" if exact else short_size(number)


def _page(verbose: bool, now: Look) -> int:
    """Reports between two headings: a screen of them, and never again in a pipe."""
    if not sys.stdout.isatty():
        return sys.maxsize
    rows = len(now.caches) + (len(now.devices) if verbose else 0)
    return max(1, (shutil.get_terminal_size().lines - 1) // max(1, rows) - 1)
