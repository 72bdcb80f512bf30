# SPDX-License-Identifier: GPL-2.0-or-later
"""`status`: the state of a mount for a person."""

from __future__ import annotations

from lcfs.engine import Cache, Device
from lcfs.engine.stats import HIT, WRITE
from lcfs.tree_attributes import Surroundings


def status_text(at: Surroundings) -> str:
    """Every cache in six lines and every disk in three: two caches and three disks are a screen."""
    caches = [at.manager.caches[id_] for id_ in sorted(at.manager.caches)]
    devices = [at.manager.devices[id_] for id_ in sorted(at.manager.devices)]
    blocks = [_describe_cache(cache) for cache in caches] + [_describe_device(at, device) for device in devices]
    return "\n".join(line for block in blocks for line in block) + "\n"


def _describe_cache(cache: Cache) -> list[str]:
    counters = cache.stats.rows()
    reads = sum(count for key, count in enumerate(counters) if not key & WRITE)
    writes = sum(counters) - reads
    read_hits = sum(count for key, count in enumerate(counters) if key & HIT and not key & WRITE)
    write_hits = sum(count for key, count in enumerate(counters) if key & HIT and key & WRITE)
    in_use = max(0, cache.current_segment_id - cache.last_migrated_segment_id)
    return [
        f"cache {cache.id}: {cache.state}",
        f"  image     {cache.path}",
        f"  dirty     {cache.nr_dirty_caches} of {cache.nr_caches} lines ({_percent(cache.nr_dirty_caches, cache.nr_caches)}), "
        f"log in {in_use} of {cache.nr_segments} segments",
        f"  migration {cache.migration}",
        f"  hits      {_percent(read_hits, reads)} of {reads} reads, {_percent(write_hits, writes)} of {writes} writes",
        f"  errors    {cache.crc_errors} lines did not match their checksum, {cache.read_errors} reads failed",
    ]


def _describe_device(at: Surroundings, device: Device) -> list[str]:
    loops = " ".join(at.loops.bound_to(f"devices/{device.id}"))
    return [
        f"disk {device.id}: {device.state}{', suspended' if device.suspended else ''}",
        f"  {device.name}, {device.size} bytes, on {device.path}",
        f"  cache {device.cache_id or 'none'}, {device.nr_dirty_caches} dirty lines, load {device.load.percent:.0f} of "
        f"{device.migrate_threshold} %, loop {loops or 'none'}, {device.nr_errors} requests failed",
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0.0 %"
