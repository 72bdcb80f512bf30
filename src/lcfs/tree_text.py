# SPDX-License-Identifier: GPL-2.0-or-later
"""The two texts at the root of the tree: `status` for a person, `metrics` for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import attrs

from lcfs.engine import Cache, Device
from lcfs.engine.stats import FULLSIZE, HIT, NR_COUNTERS, ON_BUFFER, WRITE
from lcfs.tree_attributes import Surroundings

T = TypeVar("T")


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


@attrs.frozen
class Metric(Generic[T]):
    """A metric family: `samples` gives label values beside the id, and a number, for one cache or disk."""

    name: str
    kind: str
    help: str
    samples: Callable[[T], Iterable[tuple[Mapping[str, str], int]]]


def _one(value: Callable[[T], int]) -> Callable[[T], Iterable[tuple[Mapping[str, str], int]]]:
    return lambda owner: [({}, value(owner))]


def _requests(cache: Cache) -> Iterator[tuple[Mapping[str, str], int]]:
    counters = cache.stats.rows()
    for key in range(NR_COUNTERS):
        labels = {
            "write": str(int(bool(key & WRITE))),
            "hit": str(int(bool(key & HIT))),
            "on_buffer": str(int(bool(key & ON_BUFFER))),
            "fullsize": str(int(bool(key & FULLSIZE))),
        }
        yield labels, counters[key]


def _state(owner: Cache | Device) -> Iterable[tuple[Mapping[str, str], int]]:
    return [({"state": owner.state.split()[0]}, 1)]


CACHE_METRICS: tuple[Metric[Cache], ...] = (
    Metric("info", "gauge", "Constant 1.", lambda cache: [({"uuid": str(cache.uuid), "image": cache.path}, 1)]),
    Metric("state", "gauge", "1 for the state it is in.", _state),
    Metric("requests_total", "counter", "4-KiB pieces of requests; clear_stat starts again at 0.", _requests),
    Metric("segments", "gauge", "Segments on the image.", _one(lambda cache: cache.nr_segments)),
    Metric("lines", "gauge", "4-KiB lines on the image.", _one(lambda cache: cache.nr_caches)),
    Metric("dirty_lines", "gauge", "Lines not yet on a backing.", _one(lambda cache: cache.nr_dirty_caches)),
    Metric(
        "last_flushed_segment_id",
        "counter",
        "Highest segment id on the image.",
        _one(lambda cache: cache.last_flushed_segment_id),
    ),
    Metric(
        "last_migrated_segment_id",
        "counter",
        "Highest segment id that is completely on the backings.",
        _one(lambda cache: cache.last_migrated_segment_id),
    ),
    Metric(
        "flushes_total", "counter", "Flushes of the image that barriers waited for.", _one(lambda cache: cache.barriers.flushes)
    ),
    Metric("migrated_lines_total", "counter", "Lines written back.", _one(lambda cache: cache.migrator.nr_migrated)),
    Metric("crc_errors_total", "counter", "Lines that did not match their CRC32C.", _one(lambda cache: cache.crc_errors)),
    Metric("read_errors_total", "counter", "Reads of the image that failed.", _one(lambda cache: cache.read_errors)),
    Metric("allow_migrate", "gauge", "1 while migration is allowed.", _one(lambda cache: cache.tunables["allow_migrate"])),
)

DEVICE_METRICS: tuple[Metric[Device], ...] = (
    Metric(
        "info",
        "gauge",
        "Constant 1.",
        lambda device: [
            ({"name": device.name, "uuid": str(device.uuid), "cache": str(device.cache_id), "backing": device.path}, 1)
        ],
    ),
    Metric("state", "gauge", "1 for the state it is in.", _state),
    Metric("size_bytes", "gauge", "Size of the disk.", _one(lambda device: device.size)),
    Metric("dirty_lines", "gauge", "4-KiB lines not yet on the backing.", _one(lambda device: device.nr_dirty_caches)),
    Metric(
        "backing_load_percent",
        "gauge",
        "Share of the time the backing was at work, between the last two looks of the modulator.",
        _one(lambda device: round(device.load.percent)),
    ),
    Metric("suspended", "gauge", "1 while requests are held.", _one(lambda device: int(device.suspended))),
    Metric("errors_total", "counter", "Requests that failed.", _one(lambda device: device.nr_errors)),
)


def metrics_text(at: Surroundings) -> str:
    """Prometheus text exposition format 0.0.4."""
    return "".join(
        [
            *_families("cache", CACHE_METRICS, at.manager.caches),
            *_families("device", DEVICE_METRICS, at.manager.devices),
        ]
    )


def _families(kind: str, metrics: tuple[Metric[T], ...], owners: Mapping[int, T]) -> Iterator[str]:
    for metric in metrics:
        name = f"lcfs_{kind}_{metric.name}"
        yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
        for id_ in sorted(owners):
            for labels, value in metric.samples(owners[id_]):
                pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in {kind: str(id_), **labels}.items())
                yield f"{name}{{{pairs}}} {value}\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
