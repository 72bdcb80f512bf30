# SPDX-License-Identifier: GPL-2.0-or-later
"""`metrics`: the state of a mount in Prometheus' text format 0.0.4. A family is a row.

Everything is counted where it happens, as plain ints; here it is only written down, when somebody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import attrs

from lcfs import __version__, tree_process
from lcfs.engine import Cache, Device, Manager
from lcfs.engine.latency import BOUNDS
from lcfs.engine.log import HIGH_WATERMARK, LOW_WATERMARK
from lcfs.engine.stats import FULLSIZE, HIT, NR_COUNTERS, ON_BUFFER, WRITE

T = TypeVar("T")
Sample = tuple[str, Mapping[str, str], int | float]
"""What is put behind the name of the family, labels beside the id, the value."""


@attrs.frozen
class Family(Generic[T]):
    """A metric family: its samples for one cache, one disk, or the whole mount."""

    name: str
    kind: str
    help: str
    samples: Callable[[T], Iterable[Sample]]


def _gauge(name: str, text: str, value: Callable[[T], int | float]) -> Family[T]:
    return Family(name, "gauge", text, lambda owner: [("", {}, value(owner))])


def _counter(name: str, text: str, value: Callable[[T], int | float]) -> Family[T]:
    return Family(name, "counter", text, lambda owner: [("", {}, value(owner))])


def _info(name: str, labels: Callable[[T], Mapping[str, str]]) -> Family[T]:
    return Family(name, "gauge", "Constant 1.", lambda owner: [("", labels(owner), 1)])


def _state(owner: Cache | Device) -> Mapping[str, str]:
    return {"state": owner.state.split()[0]}


def _requests(cache: Cache) -> Iterator[Sample]:
    counters = cache.stats.rows()
    for key in range(NR_COUNTERS):
        labels = {
            "write": str(int(bool(key & WRITE))),
            "hit": str(int(bool(key & HIT))),
            "on_buffer": str(int(bool(key & ON_BUFFER))),
            "fullsize": str(int(bool(key & FULLSIZE))),
        }
        yield "", labels, counters[key]


def _latencies(device: Device) -> Iterator[Sample]:
    for histogram in device.latency.histograms():
        labels = {"op": histogram.operation, "from": histogram.source}
        for bound, within in zip(BOUNDS, histogram.within, strict=True):
            yield "_bucket", {**labels, "le": repr(bound)}, within
        yield "_bucket", {**labels, "le": "+Inf"}, histogram.count
        yield "_sum", labels, histogram.seconds
        yield "_count", labels, histogram.count


def _is(cache: Cache, activity: str) -> int:
    return int(cache.migration.startswith(activity))


MOUNT_FAMILIES: tuple[Family[Manager], ...] = (
    _info("lcfs_build_info", lambda _: {"version": __version__}),
    _counter("process_cpu_seconds_total", "Processor time, user and system.", lambda _: tree_process.cpu_seconds()),
    _gauge("process_resident_memory_bytes", "Memory in RAM.", lambda _: tree_process.resident_bytes()),
    _gauge("process_start_time_seconds", "When the daemon began, since 1970.", lambda _: tree_process.start_time()),
)

CACHE_FAMILIES: tuple[Family[Cache], ...] = (
    _info("lcfs_cache_info", lambda cache: {"uuid": str(cache.uuid), "image": cache.path}),
    Family("lcfs_cache_state", "gauge", "1 for the state it is in.", lambda cache: [("", _state(cache), 1)]),
    Family("lcfs_cache_requests_total", "counter", "4-KiB pieces of requests; clear_stat starts again at 0.", _requests),
    _gauge("lcfs_cache_segments", "Segments on the image.", lambda cache: cache.nr_segments),
    _gauge("lcfs_cache_segments_in_use", "Segments that are not free.", lambda cache: cache.nr_segments - cache.ring.nr_free),
    _gauge(
        "lcfs_cache_high_watermark_segments",
        "Segments in use above which is written back whatever the load.",
        lambda cache: cache.nr_segments * (1 - 1 / HIGH_WATERMARK),
    ),
    _gauge(
        "lcfs_cache_low_watermark_segments",
        "Segments in use at which that ends.",
        lambda cache: cache.nr_segments * (1 - 1 / LOW_WATERMARK),
    ),
    _gauge("lcfs_cache_ram_segments", "Segments that are not completely on the image.", lambda cache: cache.nr_ram_segments),
    _gauge("lcfs_cache_lines", "4-KiB lines on the image.", lambda cache: cache.nr_caches),
    _gauge("lcfs_cache_dirty_lines", "Lines not yet on a backing.", lambda cache: cache.nr_dirty_caches),
    _gauge("lcfs_cache_current_segment_id", "Newest segment.", lambda cache: cache.current_segment_id),
    _gauge("lcfs_cache_last_flushed_segment_id", "Highest on the image.", lambda cache: cache.last_flushed_segment_id),
    _gauge(
        "lcfs_cache_last_migrated_segment_id",
        "Highest that is completely on the backings, and all before it.",
        lambda cache: cache.last_migrated_segment_id,
    ),
    _gauge("lcfs_cache_allow_migrate", "1 while migration is allowed.", lambda cache: cache.tunables["allow_migrate"]),
    _gauge("lcfs_cache_migrating", "1 while lines are written back.", lambda cache: _is(cache, "migrating")),
    _gauge("lcfs_cache_migration_waiting", "1 while lines wait for it.", lambda cache: _is(cache, "waiting")),
    _gauge("lcfs_cache_waiting_writers", "Writes that wait for room.", lambda cache: len(cache.waiting)),
    _counter("lcfs_cache_migrated_lines_total", "Lines written back.", lambda cache: cache.migrator.nr_migrated),
    _counter("lcfs_cache_barriers_total", "Barriers asked for.", lambda cache: cache.nr_barriers),
    _counter("lcfs_cache_flushes_total", "Flushes of the image that they shared.", lambda cache: cache.barriers.flushes),
    _counter("lcfs_cache_log_records_total", "Records written to the image.", lambda cache: cache.flusher.nr_records),
    _counter("lcfs_cache_log_bytes_total", "Bytes of these, headers included.", lambda cache: cache.flusher.nr_bytes),
    _counter("lcfs_cache_image_reads_total", "Reads of the image that had to wait.", lambda cache: cache.nr_image_reads),
    _counter("lcfs_cache_read_errors_total", "Reads of the image that failed.", lambda cache: cache.read_errors),
    _counter("lcfs_cache_write_errors_total", "Writes to the log that failed.", lambda cache: cache.flusher.nr_errors),
    _counter("lcfs_cache_crc_errors_total", "Lines that did not match their CRC32C.", lambda cache: cache.crc_errors),
)

DEVICE_FAMILIES: tuple[Family[Device], ...] = (
    _info(
        "lcfs_device_info",
        lambda device: {
            "name": device.name,
            "uuid": str(device.uuid),
            "cache": str(device.cache_id),
            "backing": device.path,
        },
    ),
    Family("lcfs_device_state", "gauge", "1 for the state it is in.", lambda device: [("", _state(device), 1)]),
    _gauge("lcfs_device_size_bytes", "Size of the disk.", lambda device: device.size),
    _gauge("lcfs_device_dirty_lines", "4-KiB lines not yet on the backing.", lambda device: device.nr_dirty_caches),
    _gauge("lcfs_device_suspended", "1 while requests are held.", lambda device: int(device.suspended)),
    _counter("lcfs_device_errors_total", "Requests that failed.", lambda device: device.nr_errors),
    Family(
        "lcfs_device_request_seconds",
        "histogram",
        "Time from a request's arrival to its answer; of those answered at once, one in 32 stands for all.",
        _latencies,
    ),
    _gauge(
        "lcfs_device_backing_load_ratio",
        "Share of the time the backing was at work, between the last two looks of the modulator.",
        lambda device: round(device.load.percent / 100, 4),
    ),
    _counter(
        "lcfs_device_backing_busy_seconds_total",
        "Time in which a request of lcfs to the backing was under way.",
        lambda device: device.load.requests.seconds,
    ),
    _counter(
        "lcfs_device_backing_migration_seconds_total",
        "Time in which lines were being written back.",
        lambda device: device.load.migration.seconds,
    ),
    _counter("lcfs_device_backing_reads_total", "Reads of the backing that had to wait.", lambda device: device.load.nr_reads),
    _counter("lcfs_device_backing_read_bytes_total", "Bytes of these.", lambda device: device.load.nr_bytes_read),
    _counter(
        "lcfs_device_backing_migration_requests_total",
        "Requests to the backing that wrote lines back, what they read around them included.",
        lambda device: device.cost.nr_requests,
    ),
    _counter("lcfs_device_backing_migration_bytes_total", "Bytes of these.", lambda device: device.cost.nr_bytes),
    _counter("lcfs_device_backing_read_errors_total", "Its reads that failed.", lambda device: device.nr_read_errors),
    _counter("lcfs_device_backing_write_errors_total", "Times writing back failed.", lambda device: device.nr_write_errors),
)


def metrics_text(manager: Manager) -> str:
    """All families, in order of these tables; the samples of each in order of ids."""
    return "".join(
        [
            *_written(MOUNT_FAMILIES, "", {0: manager}),
            *_written(CACHE_FAMILIES, "cache", manager.caches),
            *_written(DEVICE_FAMILIES, "device", manager.devices),
        ]
    )


def _written(families: tuple[Family[T], ...], label: str, owners: Mapping[int, T]) -> Iterator[str]:
    for family in families:
        yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
        for id_ in sorted(owners):
            whose = {label: str(id_)} if label else {}
            for suffix, labels, value in family.samples(owners[id_]):
                pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in {**whose, **labels}.items())
                yield f"{family.name}{suffix}{{{pairs}}} {value}\n" if pairs else f"{family.name}{suffix} {value}\n"


def _escape(text: str) -> str:
    """A label's value. For bytes of a path that are no UTF-8 a scrape would be refused: they become a backslash and digits."""
    text = text.encode(errors="backslashreplace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
