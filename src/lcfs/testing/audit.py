# SPDX-License-Identifier: GPL-2.0-or-later
"""R10: what a quiet cache says of itself, against a recount of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from lcfs.engine.cache import Cache
from lcfs.engine.stats import WRITE
from lcfs.testing.model import Violation


def audit(cache: Cache) -> None:
    """Compare counters and ids of `cache` with its tables. Raises Violation.

    Nothing may be in flight; what the tables say among themselves is checked first.
    """
    states, ring = cache.states, cache.ring
    referenced: dict[int, tuple[int, int]] = {}
    for device in cache.attached_devices():
        table = np.asarray(device.table.index)
        for line in np.flatnonzero(table).tolist():
            index = int(table[line])
            where = (device.id, line * 8)
            if index in referenced:
                raise Violation("R10", *where, f"shares cache index {index} with {referenced[index]}")
            referenced[index] = where
            if (states.device[index], states.line[index]) != (device.id, line):
                owner = (states.device[index], states.line[index])
                raise Violation("R10", *where, f"has cache index {index}, which belongs to (disk, line) {owner}")
            if not states.valid[index]:
                raise Violation("R10", *where, f"has cache index {index}, of which no sector is valid")
            if states.dirty[index] & ~states.valid[index]:
                raise Violation("R10", *where, f"has sectors at cache index {index} that are dirty and not valid")
    dirty: Counter[int] = Counter()
    for index in np.flatnonzero(states.dirty_array).tolist():
        if index not in referenced:
            raise Violation("R10", 0, 0, f"has no line, but cache index {index} is dirty")
        dirty[states.device[index]] += 1
        segment_id = _segment_of(cache, index)
        if segment_id < ring.tail:
            raise Violation("R10", *referenced[index], f"is dirty in segment {segment_id}, before the tail {ring.tail}")
    for device in cache.attached_devices():
        if device.nr_dirty_caches != dirty[device.id]:
            counted = dirty[device.id]
            raise Violation("R10", device.id, 0, f"says {device.nr_dirty_caches} dirty lines, {counted} are counted")
    if cache.nr_dirty_caches != dirty.total():
        raise Violation("R10", 0, 0, f"cache says {cache.nr_dirty_caches} dirty lines, {dirty.total()} are counted")
    ids = (cache.last_migrated_segment_id, cache.last_flushed_segment_id, cache.current_segment_id)
    if not 0 <= ids[0] <= ids[1] <= ids[2] or ids[2] - ids[0] > cache.nr_segments:
        raise Violation("R10", 0, 0, f"migrated, flushed and current segment ids are {ids}")


def _segment_of(cache: Cache, index: int) -> int:
    """The id of the newest segment that has taken the slot of a cache index."""
    geometry, newest = cache.geometry, cache.ring.segment_id
    slot = (index - geometry.first_block) // geometry.blocks_per_segment
    return newest - (newest - 1 - slot) % geometry.nr_segments


def audit_counts(caches: Iterable[Cache], reads: int, writes: int) -> None:
    """The sixteen counters add up to the pieces read and written since they were cleared. Raises Violation."""
    counted = [0, 0]
    for cache in caches:
        for i, count in enumerate(cache.stats.rows()):
            counted[i & WRITE] += count
    if counted != [reads, writes]:
        raise Violation("R10", 0, 0, f"counters say {counted} pieces read and written, it was {[reads, writes]}")
