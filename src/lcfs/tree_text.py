# SPDX-License-Identifier: GPL-2.0-or-later
"""`status`: the state of a mount for a person."""

from __future__ import annotations

from lcfs.engine import Cache, Device
from lcfs.engine.stats import HIT, WRITE
from lcfs.tree_attributes import Surroundings


def status_text(at: Surroundings) -> str:
    """Every cache and disk in a few lines each."""
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
    return [
        f"cache {cache.id}: {cache.state}",
        f"  image     {cache.path}",
        f"  lines     {cache.nr_caches}, {cache.nr_dirty_caches} dirty ({_percent(cache.nr_dirty_caches, cache.nr_caches)})",
        f"  segments  {cache.nr_segments}, last flushed {cache.last_flushed_segment_id}, "
        f"last migrated {cache.last_migrated_segment_id}",
        f"  migration {cache.migration}",
        f"  reads     {reads}, {_percent(read_hits, reads)} hits",
        f"  writes    {writes}, {_percent(write_hits, writes)} hits",
        f"  damage    {cache.crc_errors} lines did not match their checksum",
    ]


def _describe_device(at: Surroundings, device: Device) -> list[str]:
    loops = at.loops.bound_to(f"devices/{device.id}")
    return [
        f"disk {device.id}: {device.state}{', suspended' if device.suspended else ''}",
        f"  name      {device.name}",
        f"  backing   {device.path}",
        f"  size      {device.size} bytes",
        f"  cache     {device.cache_id or 'none'}, {device.nr_dirty_caches} dirty lines",
        f"  loop      {' '.join(loops) or 'none'}",
        f"  errors    {device.nr_errors} requests failed",
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0.0 %"
