# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs iostat`: what the caches are doing, in the manner of zpool iostat; read from MNT/metrics alone."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lcfs.commands.control import Tree
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import is_dead

NAME = "iostat"
HELP = "show rates and hits of the caches, once or every INTERVAL seconds"

LINE = 4096
"""Bytes of a piece, which is what the counters count: rates are rounded up to whole lines."""
HEADING = ("", "dirty", "share", "read/s", "write/s", "rhit", "whit", "migr/s", "flush/s", "state")

_SAMPLE = re.compile(r'lcfs_(cache|device)_(\w+)\{(?:cache|device)="(\d+)"(.*)\} (\d+)')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Counts(NamedTuple):
    """What a cache has counted until now; a disk has only `dirty` and `errors`."""

    state: str
    dirty: int
    lines: int = 0
    reads: int = 0
    writes: int = 0
    read_hits: int = 0
    write_hits: int = 0
    migrated: int = 0
    flushes: int = 0
    errors: int = 0


class Look(NamedTuple):
    """One look at a mount."""

    at: float
    caches: dict[int, Counts]
    devices: dict[int, Counts]


NOTHING = Counts("", 0)


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
        for number in _rounds(interval, count + 1 if options.omit_first and count else count):
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
    if rest and not 0.1 <= interval <= 86400:
        raise CommandFailed(f"interval {rest[0]} is out of range; give 0.1 to 86400 seconds", 2)
    if len(rest) == 2 and not (rest[1].isdecimal() and 0 < int(rest[1]) < 1 << 31):
        raise CommandFailed(f"count {rest[1]} is not a whole number from 1 on", 2)
    return mountpoint, interval, int(rest[1]) if len(rest) == 2 else 0


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", word, re.ASCII) is not None and len(word) < 16


def _rounds(interval: float, count: int) -> Iterator[int]:
    """0, 1, 2 ... at the times at which reports are due, however long a report takes."""
    due = time.monotonic()
    number = 0
    while True:
        yield number
        number += 1
        if not interval or number == count:
            return
        due = max(due + interval, time.monotonic() - interval)
        time.sleep(max(0.0, due - time.monotonic()))


def look(tree: Tree) -> Look:
    """The counters now. Raises CommandFailed."""
    caches: dict[int, dict[str, Any]] = {}
    devices: dict[int, dict[str, Any]] = {}
    for line in tree.read("metrics").splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            continue
        kind, name, id_, labels, value = sample[1], sample[2], int(sample[3]), dict(_LABEL.findall(sample[4])), int(sample[5])
        row = (caches if kind == "cache" else devices).setdefault(id_, {"state": "", "dirty": 0})
        if name == "state":
            row["state"] = labels["state"]
        elif name == "requests_total":
            kinds = ("writes", "write_hits") if labels["write"] == "1" else ("reads", "read_hits")
            row[kinds[0]] = row.get(kinds[0], 0) + value
            if labels["hit"] == "1":
                row[kinds[1]] = row.get(kinds[1], 0) + value
        elif name in _PLAIN:
            row[_PLAIN[name]] = value
    return Look(
        time.time(), {id_: Counts(**row) for id_, row in caches.items()}, {id_: Counts(**row) for id_, row in devices.items()}
    )


_PLAIN = {
    "dirty_lines": "dirty",
    "lines": "lines",
    "migrated_lines_total": "migrated",
    "flushes_total": "flushes",
    "errors_total": "errors",
}


def rates(before: Counts, now: Counts, seconds: float) -> dict[str, Any]:
    """What went on between two looks: bytes and counts per second, hits in percent; null where nothing was asked."""
    if any(new < old for old, new in zip(before[3:], now[3:], strict=True)):
        before = NOTHING  # clear_stat, or another cache under this id

    def per_second(new: int, old: int, unit: int = 1) -> float:
        return round((new - old) * unit / max(seconds, 1e-3), 2)

    def percent(hits: int, asked: int) -> float | None:
        return round(100 * hits / asked, 1) if asked else None

    return {
        "state": now.state,
        "dirty_bytes": now.dirty * LINE,
        "dirty_percent": round(100 * now.dirty / now.lines, 1) if now.lines else None,
        "read_bytes_per_second": per_second(now.reads, before.reads, LINE),
        "write_bytes_per_second": per_second(now.writes, before.writes, LINE),
        "read_hit_percent": percent(now.read_hits - before.read_hits, now.reads - before.reads),
        "write_hit_percent": percent(now.write_hits - before.write_hits, now.writes - before.writes),
        "migrated_bytes_per_second": per_second(now.migrated, before.migrated, LINE),
        "flushes_per_second": per_second(now.flushes, before.flushes),
    }


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
        _percent(row["dirty_percent"]),
        _size(row["read_bytes_per_second"], exact),
        _size(row["write_bytes_per_second"], exact),
        _percent(row["read_hit_percent"]),
        _percent(row["write_hit_percent"]),
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
    """Bytes in at most five characters, as zpool iostat prints them."""
    if exact:
        return f"{number:.0f}"
    units = ["", "K", "M", "G", "T"]
    while number >= 1000 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f}{units[0]}" if not units[0] or number >= 100 else f"{number:.3g}{units[0]}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0f}%"


def _page(verbose: bool, now: Look) -> int:
    """Reports between two headings: a screen of them, and never again in a pipe."""
    if not sys.stdout.isatty():
        return sys.maxsize
    rows = len(now.caches) + (len(now.devices) if verbose else 0)
    return max(1, (shutil.get_terminal_size().lines - 1) // max(1, rows) - 1)
