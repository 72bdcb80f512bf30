# SPDX-License-Identifier: GPL-2.0-or-later
"""Which requests of a disk are timed, what each counts for, and as what: the handlers, called without FUSE."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import trio

from lcfs.engine import BlockStore
from lcfs.engine.geometry import LINE
from lcfs.engine.latency import SAMPLED
from lcfs.fuse_ops import Operations
from lcfs.sysfs_tree import Tree
from lcfs.testing import DelayStore
from tests.tree.world import TWO_DISKS, World, open_world

NEVER = 1 << 30


class Ticks:
    """A clock whose every look takes a microsecond."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1000
        return self.now


class Delays:
    """The stores of a world, by path."""

    def __init__(self) -> None:
        self.stores: dict[str, DelayStore] = {}

    def wrap(self, path: str, store: BlockStore) -> DelayStore:
        self.stores[path] = DelayStore(store)
        return self.stores[path]


def trio_nanoseconds() -> int:
    return round(trio.current_time() * 1e9)


def operations_of(world: World, gaps: Iterator[int], clock: Ticks | None = None) -> Operations:
    tree = Tree(world.manager, "/mnt/lc", sys_block=str(world.sys_block))
    return Operations(tree, clock=clock or trio_nanoseconds, gaps=gaps)


async def handle(operations: Operations, world: World, flags: int = os.O_RDWR, name: str = "1") -> int:
    """An open disk."""
    devices = await operations.lookup(1, b"devices", Mock(pid=1))
    disk = await operations.lookup(devices.st_ino, name.encode(), Mock(pid=1))
    return (await operations.open(disk.st_ino, flags, Mock(pid=1))).fh


def counted(world: World, disk: int = 1) -> dict[tuple[str, str], tuple[int, float]]:
    """What the histograms of a disk hold: number and seconds."""
    return {
        (histogram.operation, histogram.source): (histogram.count, round(histogram.seconds, 9))
        for histogram in world.manager.devices[disk].latency.histograms()
    }


async def test_one_of_many_requests_that_do_not_wait_is_timed_and_stands_for_all(world: World) -> None:
    operations = operations_of(world, itertools.repeat(4), Ticks())
    fh = await handle(operations, world)
    for number in range(3):
        await operations.write(fh, number * LINE, bytes(LINE))
    assert counted(world) == {}
    await operations.read(fh, 0, LINE)
    assert counted(world) == {("read", "ram"): (SAMPLED, SAMPLED * 1e-6)}
    for number in range(4):
        await operations.write(fh, number * LINE, bytes(LINE))
    assert counted(world)["write", "ram"] == (SAMPLED, SAMPLED * 1e-6)
    for _ in range(8):
        await operations.read(fh, 0, LINE)
    assert counted(world)["read", "ram"] == (3 * SAMPLED, pytest.approx(3 * SAMPLED * 1e-6))


@pytest.mark.parametrize("gap", [NEVER, 1], ids=["not its turn", "its turn"])
async def test_a_read_that_waits_is_always_timed_and_counts_once(
    gap: int, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    delays = Delays()
    async with open_world(tmp_path, TWO_DISKS, delays.wrap) as world:
        operations = operations_of(world, itertools.repeat(gap))
        fh = await handle(operations, world)
        delays.stores["/one.img"].reads = 0.25
        await operations.read(fh, 0, LINE)
        await operations.read(fh, LINE, 3 * LINE)
        assert counted(world) == {("read", "backing"): (2, 0.5)}
        await operations.write(fh, 0, bytes(LINE))
        world.cache.close_segment()
        await world.cache.flush_current_buffer()
        while world.cache.nr_ram_segments:
            await world.cache.flush_current_buffer()
        delays.stores["/ssd.img"].reads = 2.0
        await operations.read(fh, 0, LINE)
        assert counted(world)["read", "image"] == (1, 2.0)


@pytest.mark.parametrize("gap", [NEVER, 1], ids=["not its turn", "its turn"])
async def test_a_write_that_waits_is_always_timed_and_counts_once(world: World, gap: int) -> None:
    operations = operations_of(world, itertools.repeat(gap), Ticks())
    fh = await handle(operations, world)
    await operations.write(fh, 512, bytes(512))  # never without waiting: it is no whole line
    assert counted(world) == {("write", "ram"): (1, 1e-6)}
    await world.message("detach 1")
    await operations.write(fh, 0, bytes(LINE))
    await operations.read(fh, 0, LINE)
    assert counted(world)["write", "backing"][0] == counted(world)["read", "backing"][0] == 1


async def test_a_barrier_is_always_timed(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    delays = Delays()
    async with open_world(tmp_path, TWO_DISKS, delays.wrap) as world:
        operations = operations_of(world, itertools.repeat(NEVER))
        fh = await handle(operations, world)
        delays.stores["/ssd.img"].flushes = 0.125
        await operations.write(fh, 0, bytes(LINE))
        await operations.fsync(fh, False)
        assert counted(world) == {("barrier", "image"): (1, 0.125)}
        delays.stores["/ssd.img"].flushes = 0.0
        await world.message("detach 1")
        delays.stores["/one.img"].flushes = 0.5
        await operations.fsync(fh, True)
        assert counted(world)["barrier", "backing"] == (1, 0.5)


async def test_a_write_that_is_to_be_durable_is_served_by_the_image(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    delays = Delays()
    async with open_world(tmp_path, TWO_DISKS, delays.wrap) as world:
        operations = operations_of(world, itertools.repeat(1))
        fh = await handle(operations, world, os.O_RDWR | os.O_DSYNC)
        delays.stores["/ssd.img"].flushes = 0.25
        await operations.write(fh, 0, bytes(LINE))
        assert counted(world) == {("write", "image"): (1, 0.25)}
        await operations.read(fh, 0, LINE)
        assert counted(world)["read", "ram"] == (SAMPLED, 0.0)
        await operations.fsync(fh, False)
        assert counted(world)["barrier", "image"][0] == 1


async def test_a_request_that_fails_took_its_time(world: World) -> None:
    operations = operations_of(world, itertools.repeat(NEVER), Ticks())
    fh = await handle(operations, world)
    with pytest.raises(Exception, match="No space left"):
        await operations.write(fh, world.disk.size, b"x")
    assert counted(world) == {("write", "ram"): (1, 1e-6)}


async def test_texts_are_not_timed_and_take_no_turn(world: World) -> None:
    operations = operations_of(world, itertools.repeat(2), Ticks())
    fh = await handle(operations, world)
    text = await operations.lookup(1, b"status", Mock(pid=1))
    reading = (await operations.open(text.st_ino, os.O_RDONLY, Mock(pid=1))).fh
    await operations.write(fh, 0, bytes(LINE))
    for _ in range(5):
        await operations.read(reading, 0, 4096)
    assert counted(world) == {}
    await operations.write(fh, 0, bytes(LINE))
    assert counted(world)["write", "ram"][0] == SAMPLED


async def test_what_is_counted_is_as_much_as_was_asked(world: World) -> None:
    """With the gaps that a mount uses, on a load whose reads and writes take turns."""
    tree = Tree(world.manager, "/mnt/lc", sys_block=str(world.sys_block))
    operations = Operations(tree)
    fh = await handle(operations, world)
    rounds = 20_000
    for number in range(rounds):
        await operations.write(fh, number % 100 * LINE, bytes(LINE))
        await operations.read(fh, number % 100 * LINE, LINE)
    found = counted(world)
    for operation in ("read", "write"):
        assert 0.75 * rounds < sum(count for (which, _), (count, _) in found.items() if which == operation) < 1.25 * rounds
