# SPDX-License-Identifier: GPL-2.0-or-later
"""What the caches and disks of a mount have counted, from MNT/metrics, and what went on between two looks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lcfs.commands.exposition import Sample
from lcfs.commands.latency import FAMILY, Buckets, added, quantiles

LINE = 4096
"""Bytes of a piece, which is what the counters count: rates are rounded up to whole lines."""


class Counts(NamedTuple):
    """What a cache has counted until now; a disk has only `dirty`, `errors` and `latency`, by operation."""

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
    latency: Mapping[str, Buckets] = {}

    @property
    def only_grow(self) -> tuple[int, ...]:
        """What is less than before only where it began anew."""
        return self.reads, self.writes, self.read_hits, self.write_hits, self.migrated, self.flushes, self.errors


class Look(NamedTuple):
    """One look at a mount; `at` is a time of day."""

    at: float
    caches: dict[int, Counts]
    devices: dict[int, Counts]


NOTHING = Counts("", 0)

_PLAIN = {
    "dirty_lines": "dirty",
    "lines": "lines",
    "migrated_lines_total": "migrated",
    "flushes_total": "flushes",
    "errors_total": "errors",
}


def counted(found: Iterable[Sample]) -> Look:
    """The counters in these samples, now."""
    rows: dict[str, dict[int, dict[str, Any]]] = {"cache": {}, "device": {}}
    latency: dict[int, dict[str, list[dict[float, int]]]] = {}
    cache_of: dict[int, int] = {}
    histograms: dict[tuple[int, str, str], dict[float, int]] = {}
    for sample in found:
        _, kind, name = (sample.name.split("_", 2) + ["", ""])[:3]
        labels = sample.labels
        if kind not in rows or kind not in labels:
            continue
        id_, value = int(labels[kind]), int(sample.value)
        if sample.name == FAMILY:
            key = (id_, labels["op"], labels["from"])
            histograms.setdefault(key, {})[float(labels["le"])] = value
            continue
        row = rows[kind].setdefault(id_, {"state": "", "dirty": 0})
        if name == "state":
            row["state"] = labels["state"]
        elif name == "info" and kind == "device":
            cache_of[id_] = int(labels["cache"])
        elif name == "requests_total" and kind == "cache":
            kinds = ("writes", "write_hits") if labels["write"] == "1" else ("reads", "read_hits")
            row[kinds[0]] = row.get(kinds[0], 0) + value
            if labels["hit"] == "1":
                row[kinds[1]] = row.get(kinds[1], 0) + value
        elif name in _PLAIN:
            row[_PLAIN[name]] = value
    for (id_, op, _), buckets in histograms.items():
        latency.setdefault(id_, {}).setdefault(op, []).append(buckets)
    devices = {
        id_: Counts(**row, latency={op: added(each) for op, each in latency.get(id_, {}).items()})
        for id_, row in rows["device"].items()
    }
    caches = {
        id_: Counts(**row, latency=_of_all([devices[disk].latency for disk, cache in cache_of.items() if cache == id_]))
        for id_, row in rows["cache"].items()
    }
    return Look(time.time(), caches, devices)


def _of_all(disks: list[Mapping[str, Buckets]]) -> dict[str, Buckets]:
    return {op: added(disk[op] for disk in disks if op in disk) for op in {op for disk in disks for op in disk}}


def rates(before: Counts, now: Counts, seconds: float) -> dict[str, Any]:
    """What went on between two looks: bytes and counts per second, hits in percent; null where nothing was asked."""
    former = before.latency
    if any(new < old for old, new in zip(before.only_grow, now.only_grow, strict=True)):
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
        **quantiles(former, now.latency),
    }
