# SPDX-License-Identifier: GPL-2.0-or-later
"""What `lcfs top` shows, read from the tree into plain data, and what there was in the looks before."""

from __future__ import annotations

import os
from collections import deque
from typing import Any, NamedTuple

from lcfs.commands import counts
from lcfs.commands.control import Tree
from lcfs.commands.counts import NOTHING, Counts
from lcfs.commands.exposition import Sample, samples
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import loops_on

LONGEST_HISTORY = 512
"""Looks that are kept: more than a terminal has columns."""

HIGH_WATERMARK = 7 / 8
LOW_WATERMARK = 3 / 4
"""Share of the segments in use at which writing back begins whatever the load, and ends again (`engine/pace.py`; said
again because importing the engine takes 0.2 s)."""


class Run(NamedTuple):
    """Neighbouring slots of the ring; `dirty`: percent of their lines."""

    slots: int
    kind: str
    dirty: int


class Segments(NamedTuple):
    """The ring. `tail`, `flushed` and `current` are segment ids, 0: none yet."""

    slots: int
    tail: int
    flushed: int
    current: int
    runs: tuple[Run, ...]

    @property
    def in_use(self) -> int:
        """Segments from the tail on: what is not known to be on its backing."""
        return max(0, min(self.slots, self.current - self.tail + 1))


class CacheLook(NamedTuple):
    """A cache."""

    id: int
    image: str
    state: str
    migration: str
    allow_migrate: int
    force_migrate: int
    update_interval: int
    segments: Segments
    crc_errors: int
    read_errors: int
    counts: Counts


class DiskLook(NamedTuple):
    """A disk; `cache` 0: none, `load` and `threshold` in percent."""

    id: int
    name: str
    backing: str
    cache: int
    state: str
    size: int
    suspended: bool
    load: int
    threshold: int
    loops: tuple[str, ...]
    counts: Counts


class Look(NamedTuple):
    """A mount at a time of day; `since` is when it was mounted."""

    at: float
    since: float
    mountpoint: str
    caches: dict[int, CacheLook]
    disks: dict[int, DiskLook]


def look(tree: Tree) -> Look:
    """The mount now. A cache or disk that goes away meanwhile is left out. Raises CommandFailed."""
    found = list(samples(tree.read("metrics")))
    counted = counts.counted(found)
    facts = _facts(found)
    loops = [(os.path.relpath(loop.backing, tree.mountpoint), loop.name) for loop in loops_on(tree.mountpoint)]
    caches: dict[int, CacheLook] = {}
    disks: dict[int, DiskLook] = {}
    for id_, count in sorted(counted.caches.items()):
        try:
            caches[id_] = _cache(tree, id_, facts["cache"].get(id_, {}), count)
        except CommandFailed:
            continue
    for id_, count in sorted(counted.devices.items()):
        bound = tuple(name.removeprefix("/dev/") for path, name in loops if path == f"devices/{id_}")
        try:
            disks[id_] = _disk(tree, id_, facts["device"].get(id_, {}), count, bound)
        except CommandFailed:
            continue
    return Look(counted.at, os.stat(tree.mountpoint).st_mtime, tree.mountpoint, caches, disks)


def _facts(found: list[Sample]) -> dict[str, dict[int, dict[str, Any]]]:
    """By cache or disk: the labels of its `info`, and the value of every other sample that it has just one of."""
    facts: dict[str, dict[int, dict[str, Any]]] = {"cache": {}, "device": {}}
    for sample in found:
        kind = next((kind for kind in facts if sample.name.startswith(f"lcfs_{kind}_") and kind in sample.labels), None)
        if kind is None:
            continue
        row = facts[kind].setdefault(int(sample.labels[kind]), {})
        name = sample.name.removeprefix(f"lcfs_{kind}_")
        if name == "info":
            row.update(sample.labels)
        elif len(sample.labels) == 1:
            row[name] = sample.value if name.endswith("_ratio") else int(sample.value)
    return facts


def _cache(tree: Tree, id_: int, facts: dict[str, Any], count: Counts) -> CacheLook:
    return CacheLook(
        id_,
        facts.get("image", ""),
        tree.read("caches", id_, "state"),
        tree.read("caches", id_, "migration"),
        int(tree.read("caches", id_, "allow_migrate")),
        int(tree.read("caches", id_, "force_migrate")),
        int(tree.read("caches", id_, "update_interval")),
        parse_segments(tree.read("caches", id_, "segments")),
        facts.get("crc_errors_total", 0),
        facts.get("read_errors_total", 0),
        count,
    )


def _disk(tree: Tree, id_: int, facts: dict[str, Any], count: Counts, loops: tuple[str, ...]) -> DiskLook:
    return DiskLook(
        id_,
        facts.get("name", ""),
        facts.get("backing", ""),
        int(facts.get("cache", 0)),
        tree.read("block", id_, "state"),
        facts.get("size_bytes", 0),
        bool(facts.get("suspended", 0)),
        round(100 * facts.get("backing_load_ratio", 0.0)),
        int(tree.read("block", id_, "migrate_threshold")),
        loops,
        count,
    )


def parse_segments(text: str) -> Segments:
    """The attribute `segments`."""
    words = [line.split() for line in text.split("\n")]
    head = {row[0]: int(row[1]) for row in words if len(row) == 2}
    runs = tuple(Run(int(row[0]), row[1], int(row[2])) for row in words if len(row) == 3)
    return Segments(head["nr_segments"], head["tail"], head["flushed"], head["current"], runs)


class History:
    """What went on between the looks, by cache: `counts.rates` of each, oldest first."""

    def __init__(self) -> None:
        self._last: Look | None = None
        self._points: dict[int, deque[dict[str, Any]]] = {}
        self._since_mount: dict[int, dict[str, Any]] = {}

    def add(self, look: Look) -> None:
        """One more look."""
        before = self._last
        for id_, cache in look.caches.items():
            if before is None:
                self._since_mount[id_] = counts.rates(NOTHING, cache.counts, look.at - look.since)
            elif id_ in before.caches:
                points = self._points.setdefault(id_, deque(maxlen=LONGEST_HISTORY))
                points.append(counts.rates(before.caches[id_].counts, cache.counts, look.at - before.at))
        for id_ in self._points.keys() - look.caches.keys():
            del self._points[id_]
        self._last = look

    def latest(self, cache_id: int) -> dict[str, Any]:
        """Since the look before; at the first look since the mount, as `lcfs iostat` has it; empty where it is new."""
        points = self._points.get(cache_id)
        return points[-1] if points else self._since_mount.get(cache_id, {})

    def series(self, cache_id: int, name: str) -> list[float | None]:
        """A rate in each of the looks but the first; None where there was nothing to tell."""
        return [point[name] for point in self._points.get(cache_id, ())]
