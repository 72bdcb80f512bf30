# SPDX-License-Identifier: GPL-2.0-or-later
"""Every attribute: its value, and every way to store a wrong one."""

from __future__ import annotations

import errno

import pytest
import trio

from lcfs.engine import LcfsError
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER, WRITE
from lcfs.engine.tunables import TUNABLES
from lcfs.sysfs_tree import VALUE_MAX
from lcfs.tree_attributes import BLOCK_ATTRIBUTES, CACHE_ATTRIBUTES
from tests.tree.world import MIB, World

ACTIONS = ("flush_current_buffer", "commit_super_block", "clear_stat", "drop_caches")
NUMBERS = [f"caches/1/{name}" for name in (*TUNABLES, *ACTIONS)] + ["block/1/migrate_threshold", "block/1/suspended"]
"""Every attribute that takes a number."""

NO_NUMBERS = [
    *(b"\n", b" ", b"-1", b"--1", b"++1", b" 1", b"1 ", b"1\t\n", b"0x1", b"1e0", b"1.0", b"1k", b"1_0", b"1\n2", b"1\n\n"),
    *(b"one", b"\xd9\xa1", b"\xff\xfe", b"1\0", b"1,2", b"+", b"-0"),
]
BEYOND_64_BITS = [str(1 << 64).encode(), b"+" + str(1 << 64).encode() + b"\n", b"9" * 4096]

RANGES = [
    ("caches/1/allow_migrate", 0, 1),
    ("caches/1/force_migrate", 0, 1),
    ("caches/1/nr_max_batched_migration", 1, 256),
    ("caches/1/barrier_deadline_ms", 1, 1000),
    ("caches/1/flush_current_buffer_interval", 0, 3600),
    ("caches/1/commit_super_block_interval", 0, 3600),
    ("caches/1/update_interval", 0, 3600),
    ("block/1/migrate_threshold", 0, 100),
    ("block/1/suspended", 0, 1),
]


async def test_modes(world: World) -> None:
    assert world.node("control").mode == world.node("devices/1").mode == 0o600
    assert world.node("status").mode == world.node("metrics").mode == 0o444
    writable = {*TUNABLES, *ACTIONS, "scrub"}
    for row in CACHE_ATTRIBUTES:
        assert row.mode == (0o644 if row.name in writable else 0o444), row.name
    for disk_row in BLOCK_ATTRIBUTES:
        writes = disk_row.name in ("migrate_threshold", "name", "suspended")
        assert disk_row.mode == (0o644 if writes else 0o444), disk_row.name
    for path in (*(f"caches/1/{row.name}" for row in CACHE_ATTRIBUTES), *(f"block/1/{row.name}" for row in BLOCK_ATTRIBUTES)):
        node = world.text(path)
        assert (node.store is not None) == bool(node.mode & 0o200), path


async def test_defaults(world: World) -> None:
    defaults = {
        "allow_migrate": "0",
        "force_migrate": "0",
        "nr_max_batched_migration": "32",
        "barrier_deadline_ms": "3",
        "flush_current_buffer": "0",
        "flush_current_buffer_interval": "0",
        "commit_super_block": "0",
        "commit_super_block_interval": "0",
        "update_interval": "1",
        "last_flushed_segment_id": "0",
        "last_migrated_segment_id": "0",
        "state": "running",
        "clear_stat": "0",
        "scrub": "idle",
        "drop_caches": "0",
        "nr_segments": "7",
        "nr_caches": str(7 * 255),
        "nr_dirty_caches": "0",
        "uuid": str(world.cache.uuid),
    }
    assert {name: world.read(f"caches/1/{name}") for name in defaults} == {k: v + "\n" for k, v in defaults.items()}
    disk = {
        "cache_id": "1",
        "dev": "",
        "device_no": world.disk.device_number(),
        "migrate_threshold": "70",
        "nr_dirty_caches": "0",
        "name": "first",
        "size": str(4 * MIB),
        "uuid": str(world.disk.uuid),
        "state": "running",
        "suspended": "0",
    }
    assert {name: world.read(f"block/1/{name}") for name in disk} == {k: v + "\n" for k, v in disk.items()}


async def test_stats_and_status_have_all_sixteen_rows(world: World) -> None:
    world.cache.stats.counters[:] = range(100, 116)
    rows = [
        f"{int(bool(key & WRITE))} {int(bool(key & HIT))} {int(bool(key & ON_BUFFER))} {int(bool(key & FULLSIZE))} {100 + key}"
        for key in range(16)
    ]
    assert world.read("caches/1/stats").splitlines() == rows
    status = world.read("caches/1/status")
    assert status.startswith("\ncurrent cache_id_ptr: 1\nstatic RAM(approx.): ")
    assert status.splitlines()[-18:] == ["", "write? hit? on_buffer? fullsize?", *rows]
    for line in ("allow_migrate: 0", "nr_segments: 7", "last_flushed_segment_id: 0", "current segment id: 0", "cursor: 0"):
        assert line in status.splitlines()


async def test_every_attribute_is_one_text_of_at_most_a_page(world: World) -> None:
    world.disk.set_missing("a very long story, " * 400)
    for path in (*(f"caches/1/{row.name}" for row in CACHE_ATTRIBUTES), *(f"block/1/{row.name}" for row in BLOCK_ATTRIBUTES)):
        value = world.text(path).open().read(0, 1 << 20)
        assert value.endswith(b"\n"), path
        assert len(value) <= VALUE_MAX, path
    assert len(world.read("block/1/state")) == VALUE_MAX


async def test_a_value_is_taken_at_offset_0_and_stays_for_that_open_file(world: World) -> None:
    handle, other = world.text("caches/1/barrier_deadline_ms").open(), world.text("caches/1/barrier_deadline_ms").open()
    assert handle.read(0, 1) == b"3"
    await world.store("caches/1/barrier_deadline_ms", b"777\n")
    assert handle.read(1, 4096) == b"\n"
    assert handle.read(2, 4096) == handle.read(4096, 4096) == b""
    assert other.read(0, 4096) == handle.read(0, 4096) == b"777\n"
    assert handle.read(2, 4096) == b"7\n"


async def test_dev_is_the_loop_devices_on_the_file(world: World) -> None:
    world.bind(10, "/mnt/lc/devices/1")
    world.bind(2, "/mnt/lc/devices/1")
    world.bind(0, "/mnt/lc/devices/1 (deleted)")
    world.bind(3, "/mnt/lc/devices/2")
    world.bind(4, "/elsewhere/devices/2")
    (world.sys_block / "loop5" / "loop").mkdir(parents=True)  # being let go
    (world.sys_block / "sda").mkdir()
    assert world.read("block/1/dev") == "7:2 7:10\n"
    assert world.read("block/2/dev") == "7:3\n"


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
async def test_what_is_no_number_is_refused(world: World, path: str, value: bytes) -> None:
    await refused(world, path, value, errno.EINVAL)


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", BEYOND_64_BITS, ids=len)
async def test_more_than_64_bits_are_refused(world: World, path: str, value: bytes) -> None:
    await refused(world, path, value, errno.ERANGE)


@pytest.mark.parametrize("path", NUMBERS)
async def test_2_to_the_64_less_1_is_a_number_but_out_of_every_range(world: World, path: str) -> None:
    await refused(world, path, b"18446744073709551615", errno.EINVAL)


async def test_a_store_has_at_most_a_page(world: World) -> None:
    await refused(world, "caches/1/update_interval", b"0" * 4096 + b"1", errno.EINVAL)
    await world.store("caches/1/update_interval", b"0" * 4095 + b"9")
    assert world.read("caches/1/update_interval") == "9\n"


@pytest.mark.parametrize(("path", "low", "high"), RANGES)
async def test_ranges(world: World, path: str, low: int, high: int) -> None:
    for value in (low, high, low):
        await world.store(path, f"{value}".encode())
        assert world.read(path) == f"{value}\n"
        await world.store(path, f"+{value}\n".encode())
        await world.store(path, f"{value:030d}\n".encode())
        assert world.read(path) == f"{value}\n"
    for value in (low - 1, high + 1):
        await refused(world, path, f"{value}\n".encode(), errno.EINVAL)


def test_every_number_that_is_kept_has_its_range_tested() -> None:
    kept = {path for path in NUMBERS if path.rpartition("/")[2] not in ACTIONS}
    assert {path for path, _, _ in RANGES} == kept


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("value", [b"0", b"2\n"])
async def test_actions_take_only_1(world: World, name: str, value: bytes) -> None:
    await refused(world, f"caches/1/{name}", value, errno.EINVAL)


@pytest.mark.parametrize("value", [b"", b"\n", b"a/b", b"a\nb", b"x" * 65, b"\xff"], ids=repr)
async def test_names_that_a_disk_cannot_have(world: World, value: bytes) -> None:
    await refused(world, "block/1/name", value, errno.EINVAL)


@pytest.mark.parametrize("name", ["x" * 64, "ü" * 32, "swap 2", "0"])
async def test_names_that_a_disk_can_have(world: World, name: str) -> None:
    await world.store("block/1/name", f"{name}\n".encode())
    assert world.read("block/1/name") == f"{name}\n"


async def refused(world: World, path: str, value: bytes, number: int) -> None:
    """The store raises `number`, nothing changed, and `control` says why."""
    before = world.read(path)
    dirty = world.cache.stats.rows()
    with pytest.raises(LcfsError) as refusal:
        await world.store(path, value)
    assert refusal.value.errno == number
    assert world.read(path) == before
    assert world.cache.stats.rows() == dirty
    assert world.control().open().read(0, 65536).decode() == f"{path}: {refusal.value}\n"


async def test_a_refusal_names_the_condition_and_the_value(world: World) -> None:
    with pytest.raises(LcfsError):
        await world.store("caches/1/barrier_deadline_ms", b"1001\n")
    assert "1 to 1000" in world.manager.last_refusal
    assert "1001" in world.manager.last_refusal


async def test_actions_are_finished_when_the_store_returns(world: World) -> None:
    async def write(line: int) -> None:
        assert await world.disk.write(line * 4096, b"\x55" * 4096) == 4096

    await write(0)
    assert world.read("caches/1/last_flushed_segment_id") == "0\n"
    await world.store("caches/1/flush_current_buffer", b"1\n")
    assert world.read("caches/1/last_flushed_segment_id") == "1\n"
    assert world.read("caches/1/nr_dirty_caches") == world.read("block/1/nr_dirty_caches") == "1\n"
    sequence = world.cache.superblock.current.sequence
    await world.store("caches/1/commit_super_block", b"1")
    assert world.cache.superblock.current.sequence == sequence + 1
    assert sum(world.cache.stats.rows()) == 1
    await world.store("caches/1/clear_stat", b"1")
    assert sum(world.cache.stats.rows()) == 0
    await write(1)
    await world.store("caches/1/drop_caches", b"1")
    assert world.read("caches/1/nr_dirty_caches") == "0\n"
    assert world.read("caches/1/last_migrated_segment_id") == world.read("caches/1/last_flushed_segment_id")


async def test_suspended_holds_requests_until_it_is_0(world: World) -> None:
    await world.store("block/1/suspended", b"1\n")
    with trio.move_on_after(0.05) as patience:
        await world.disk.write(0, bytes(512))
    assert patience.cancelled_caught
    await world.store("block/1/suspended", b"0\n")
    assert await world.disk.write(0, bytes(512)) == 512
