# SPDX-License-Identifier: GPL-2.0-or-later
"""metrics: its form, and that each family counts what it says."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from pathlib import Path

import pytest
import trio

import lcfs
from lcfs.engine import BlockStore, CacheSpec, DeviceSpec, Failed, LcfsError, MountSpec
from lcfs.engine.geometry import LINE
from lcfs.engine.latency import BARRIER, BOUNDS, IMAGE, RAM, READ, SAMPLED, WRITE
from lcfs.engine.stats import FULLSIZE, HIT
from lcfs.engine.stats import WRITE as WRITTEN
from lcfs.testing import Fault, FaultStore, Operation
from lcfs.tree_metrics import CACHE_FAMILIES, DEVICE_FAMILIES, MOUNT_FAMILIES
from tests.plugins.log_check import ExpectLog
from tests.tree.exposition import Family, read, value_of
from tests.tree.world import MIB, TWO_DISKS, World, open_world

DOCUMENT = (Path(__file__).parent.parent.parent / "docs/control_tree.md").read_text()
ROW = re.compile(r"^\| `((?:lcfs|process)_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", re.MULTILINE)


def metrics(world: World) -> dict[str, Family]:
    """What is exported just now, read strictly."""
    return read(world.read("metrics"))


def value(world: World, name: str, **labels: str) -> float:
    return value_of(metrics(world), name, **labels)


async def exercise(world: World) -> None:
    """Something in every family."""
    await world.disk.write(0, bytes(8 * LINE))
    await world.disk.flush()
    for operation, source in itertools.product((READ, WRITE, BARRIER), (RAM, IMAGE)):
        world.disk.latency.add(operation, source, 3000)


async def test_the_samples_are_those_of_the_engine(world: World) -> None:
    world.cache.stats.counters[WRITTEN | HIT | FULLSIZE] = 42
    world.disk.nr_errors = 6
    found = metrics(world)
    labels = {"cache": "1", "write": "1", "hit": "1", "on_buffer": "0", "fullsize": "1"}
    assert value_of(found, "lcfs_cache_requests_total", **labels) == 42
    assert len(found["lcfs_cache_requests_total"].samples) == 16
    assert value_of(found, "lcfs_cache_dirty_lines", cache="1") == 0
    assert value_of(found, "lcfs_cache_state", cache="1", state="running") == 1
    assert value_of(found, "lcfs_device_size_bytes", device="2") == 2 * MIB
    assert value_of(found, "lcfs_device_errors_total", device="1") == 6
    assert value_of(found, "lcfs_device_errors_total", device="2") == 0
    assert value_of(found, "lcfs_cache_crc_errors_total", cache="1") == 0
    assert value_of(found, "lcfs_build_info", version=lcfs.__version__) == 1


async def test_only_latencies_that_occurred_are_given(world: World) -> None:
    assert metrics(world)["lcfs_device_request_seconds"].samples == []
    world.disk.latency.add(READ, RAM, 2000, SAMPLED)
    world.disk.latency.add(READ, RAM, 300_000_000)
    found = metrics(world)
    of = {"device": "1", "op": "read", "from_": "ram"}
    assert len(found["lcfs_device_request_seconds"].samples) == len(BOUNDS) + 3
    assert value_of(found, "lcfs_device_request_seconds_bucket", **of, le="2e-06") == SAMPLED
    assert value_of(found, "lcfs_device_request_seconds_bucket", **of, le="0.262144") == SAMPLED
    assert value_of(found, "lcfs_device_request_seconds_bucket", **of, le="0.524288") == SAMPLED + 1
    assert value_of(found, "lcfs_device_request_seconds_count", **of) == SAMPLED + 1
    assert value_of(found, "lcfs_device_request_seconds_sum", **of) == pytest.approx(0.300064)


@pytest.mark.parametrize(
    "name",
    ['with "quotes" and \\', "\\n", '"', "\\", 'a"} 1', "ein Fässchen", "磁盘", "\U0001f4be", " x ", "#", "a,b=c{d}"],
)
async def test_odd_names_of_disks(world: World, name: str) -> None:
    await world.store("block/1/name", name.encode() + b"\n")
    assert metrics(world)["lcfs_device_info"].samples[0].labels["name"] == name


async def test_line_breaks_in_names_are_refused(world: World) -> None:
    for name in ("two\nlines", "\r", "\u2028", "a\tb"):
        with pytest.raises(LcfsError):
            await world.store("block/1/name", name.encode())
    metrics(world)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", "a\nb"), ('q"', 'q"'), ("a\\nb", "a\\nb"), ("\x85\u2028", "\x85\u2028"), (os.fsdecode(b"\xff"), "\\udcff")],
)
async def test_odd_names_of_files(tmp_path: Path, name: str, shown: str) -> None:
    """A path may hold any byte; one that is no UTF-8 would make Prometheus refuse all."""
    spec = MountSpec(
        caches=(CacheSpec(f"/ssd{name}.img", size=4 * MIB),),
        devices=(DeviceSpec(f"/{name}.raw", id=1, size=MIB),),
    )
    async with open_world(tmp_path, spec) as world:
        found = metrics(world)
        assert found["lcfs_cache_info"].samples[0].labels["image"] == f"/ssd{shown}.img"
        assert found["lcfs_device_info"].samples[0].labels["backing"] == f"/{shown}.raw"


async def test_no_disk_and_no_cache_need_be_there(tmp_path: Path) -> None:
    spec = MountSpec(caches=(CacheSpec("/ssd.img", size=4 * MIB),), default_disk=False)
    async with open_world(tmp_path, spec) as world:
        assert value(world, "lcfs_cache_lines", cache="1") == 765
        await world.message("switch_to 1")
        await world.message("free_cache")
        assert not any(family.samples for name, family in metrics(world).items() if name.startswith(("lcfs_c", "lcfs_d")))


async def test_the_log_is_counted(world: World) -> None:
    await world.store("caches/1/update_interval", b"0")
    await world.disk.write(0, bytes(3 * LINE))
    before = metrics(world)
    await world.disk.flush()
    await world.disk.write(0, bytes(LINE))
    await world.disk.flush()
    after = metrics(world)

    def more(name: str) -> float:
        return value_of(after, f"lcfs_cache_{name}", cache="1") - value_of(before, f"lcfs_cache_{name}", cache="1")

    assert more("log_records_total") == more("barriers_total") == more("flushes_total") == 2
    assert more("log_bytes_total") == (1 + 3 + 1 + 1) * LINE
    assert value_of(after, "lcfs_cache_current_segment_id", cache="1") == 1
    assert value_of(after, "lcfs_cache_last_flushed_segment_id", cache="1") == 1
    assert value_of(after, "lcfs_cache_last_migrated_segment_id", cache="1") == 0
    assert value_of(after, "lcfs_cache_segments_in_use", cache="1") == 1
    assert value_of(after, "lcfs_cache_ram_segments", cache="1") == 1
    assert value_of(after, "lcfs_cache_high_watermark_segments", cache="1") == 7 * 7 / 8
    assert value_of(after, "lcfs_cache_low_watermark_segments", cache="1") == 7 * 3 / 4


async def test_migration_is_shown(world: World) -> None:
    await world.store("caches/1/update_interval", b"0")
    assert value(world, "lcfs_cache_migrating", cache="1") == value(world, "lcfs_cache_migration_waiting", cache="1") == 0
    await world.disk.write(0, bytes(16 * LINE))
    world.cache.close_segment()
    await world.disk.flush()
    assert value(world, "lcfs_cache_migrating", cache="1") == 0
    assert value(world, "lcfs_cache_migration_waiting", cache="1") == 1
    await world.store("caches/1/force_migrate", b"1")
    await world.message("detach 1")
    assert value(world, "lcfs_cache_migrated_lines_total", cache="1") == 16
    assert value(world, "lcfs_device_backing_migration_requests_total", device="1") == 1
    assert value(world, "lcfs_device_backing_migration_bytes_total", device="1") == 16 * LINE
    assert 0 < value(world, "lcfs_device_backing_migration_seconds_total", device="1")
    assert 0 < value(world, "lcfs_device_backing_busy_seconds_total", device="1")
    assert value(world, "lcfs_device_backing_migration_requests_total", device="2") == 0


async def test_reads_and_errors_are_counted(
    tmp_path: Path, expect_log: ExpectLog, autojump_clock: trio.testing.MockClock
) -> None:
    expect_log("/ssd.img cannot be read at block")
    expect_log("disk 1 is degraded")
    expect_log("write to /ssd.img failed")
    faults: dict[str, FaultStore] = {}

    def wrap(path: str, store: BlockStore) -> FaultStore:
        faults[path] = FaultStore(store)
        return faults[path]

    async with open_world(tmp_path, TWO_DISKS, wrap) as world:
        await world.store("caches/1/update_interval", b"0")
        await world.disk.write(0, bytes(4 * LINE))
        world.cache.close_segment()
        while world.cache.nr_ram_segments:
            await world.cache.flush_current_buffer()
        faults["/ssd.img"].add(Fault(Operation.READ, times=2))
        faults["/one.img"].add(Fault(Operation.READ))
        await world.disk.read(0, LINE)
        with pytest.raises(Failed, match="cannot be read"):
            await world.disk.read(8 * LINE, 2 * LINE)
        faults["/one.img"].add(Fault(Operation.WRITE))
        with pytest.raises(LcfsError):
            await world.message("detach 1")
        faults["/ssd.img"].add(Fault(Operation.WRITE, error=errno.EIO))
        await world.disk.write(0, bytes(LINE))
        await world.disk.flush()
        assert value(world, "lcfs_cache_image_reads_total", cache="1") >= 2
        assert value(world, "lcfs_cache_read_errors_total", cache="1") >= 1
        assert value(world, "lcfs_cache_write_errors_total", cache="1") == 1
        assert value(world, "lcfs_device_backing_read_errors_total", device="1") == 1
        assert value(world, "lcfs_device_backing_write_errors_total", device="1") >= 1
        assert value(world, "lcfs_device_backing_reads_total", device="1") >= 1
        assert value(world, "lcfs_device_backing_read_bytes_total", device="1") >= 2 * LINE


async def test_the_process(world: World) -> None:
    found = metrics(world)
    assert 0 < value_of(found, "process_cpu_seconds_total") <= time.process_time()
    assert MIB < value_of(found, "process_resident_memory_bytes") < 1 << 36
    assert time.time() - 86400 < value_of(found, "process_start_time_seconds") < time.time()
    assert value(world, "process_start_time_seconds") == value_of(found, "process_start_time_seconds")


async def test_the_document_has_every_family(world: World) -> None:
    await exercise(world)
    found = metrics(world)
    assert [*found] == [family.name for family in (*MOUNT_FAMILIES, *CACHE_FAMILIES, *DEVICE_FAMILIES)]
    assert not [name for name, family in found.items() if not family.samples], "exercise() is to have something in each"
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(DOCUMENT)}
    assert documented == {name: (family.kind, family.labels - {"le"}) for name, family in found.items()}
    assert len(ROW.findall(DOCUMENT)) == len(documented)


def test_the_families_are_documented_in_the_order_of_the_text() -> None:
    families = [family.name for family in (*MOUNT_FAMILIES, *CACHE_FAMILIES, *DEVICE_FAMILIES)]
    assert [name for name, *_ in ROW.findall(DOCUMENT)] == families
