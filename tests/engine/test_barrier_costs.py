# SPDX-License-Identifier: GPL-2.0-or-later
"""What a barrier costs, in bytes, flushes, segments and time."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from lcfs.engine import Device
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing import Operation, lose_all
from tests.regress.support import IMAGE, LOG_START, MIB, Rig, backing, lines, no_calls, one_cache, read_all, sectors, write

FLUSH = 0.010
"""Seconds a flush of the image takes where it is slow."""


async def timed_barrier(disk: Device, line: int, number: int = 1) -> float:
    """Seconds that the barrier of one dirty line takes."""
    await write(disk, line * LINE, lines(disk.id, line, 1, number))
    began = trio.current_time()
    await disk.flush()
    return trio.current_time() - began


def calls(rig: Rig) -> list[tuple[str, str, int]]:
    """What the stores were asked for: path, operation, length."""
    return [(call.store, call.operation.value, call.length) for call in rig.log.calls]


ONE_BARRIER = [(IMAGE, "write", 2 * LINE), (IMAGE, "flush", 0)]


async def test_one_dirty_line_costs_8_kib_and_a_flush(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        position = cache.appended
        for number in range(50):
            rig.log.clear()
            if number % 3:
                await write(disk, number * LINE, lines(1, number, 1, number))
            else:  # a part of a line costs the same
                await write(disk, number * LINE + SECTOR, sectors(1, 8 * number + 1, 2, number))
            assert calls(rig) == []
            await disk.flush()
            assert calls(rig) == ONE_BARRIER
            assert rig.log.calls[0].offset == LOG_START + number * 2 * LINE
        assert cache.appended - position <= 256 + 100
        assert (cache.current_segment_id, cache.last_flushed_segment_id, cache.last_migrated_segment_id) == (1, 1, 0)


async def test_a_line_written_again_costs_one_line(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        rig.log.clear()
        for number in range(100):
            await write(disk, 0, lines(1, 0, 1, number))
        await disk.flush()
        assert calls(rig) == ONE_BARRIER


async def test_nothing_dirty_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        with no_calls(rig.log):
            await disk.flush()
        await timed_barrier(disk, 0)
        before = cache.current_segment_id, cache.appended
        began = trio.current_time()
        with no_calls(rig.log):
            for _ in range(100):
                await disk.flush()
                await cache.flush_current_buffer()
        assert (cache.current_segment_id, cache.appended) == before
        assert trio.current_time() == began


@pytest.mark.parametrize("deadline_ms", [1, 3, 1000])
async def test_a_lone_barrier_does_not_wait(autojump_clock: trio.testing.MockClock, deadline_ms: int) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        await manager.caches[1].set_tunable("barrier_deadline_ms", deadline_ms)
        rig.delays[IMAGE].flushes = FLUSH
        for line in range(20):
            assert await timed_barrier(disk, line) == pytest.approx(FLUSH, abs=1e-6)
            await trio.sleep(0.1)


async def test_concurrent_barriers_share_flushes(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: 4 * MIB}) as manager:
        disk = manager.devices[1]
        rig.delays[IMAGE].flushes = FLUSH
        rig.log.clear()
        took: list[float] = []

        async def barrier(line: int) -> None:
            await trio.sleep(line * 0.0001)
            took.append(await timed_barrier(disk, line))

        async with trio.open_nursery() as nursery:
            for line in range(128):
                nursery.start_soon(barrier, line)
        assert len(took) == 128
        assert 1 <= rig.log.count(Operation.FLUSH, IMAGE) <= 64
        # a header for each record, and no line twice
        assert rig.log.bytes_of(Operation.WRITE) <= (128 + 64) * LINE
        rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        assert (await read_all(manager.devices[1]))[: 128 * LINE] == b"".join(lines(1, line, 1, 1) for line in range(128))


@pytest.mark.parametrize("users", [2, 16, 128])
@pytest.mark.parametrize("deadline_ms", [1, 3, 50])
async def test_no_barrier_waits_longer_than_the_deadline(
    autojump_clock: trio.testing.MockClock, users: int, deadline_ms: int
) -> None:
    """Under load a barrier waits for the flush that is in flight, for company, and for its own flush; no longer."""
    rig = Rig()
    rng = random.Random(users)
    async with rig.mounted({1: 4 * MIB}) as manager:
        disk = manager.devices[1]
        await manager.caches[1].set_tunable("barrier_deadline_ms", deadline_ms)
        rig.delays[IMAGE].flushes = FLUSH
        took: list[float] = []
        rig.log.clear()

        async def use(line: int) -> None:
            for number in range(10):
                took.append(await timed_barrier(disk, line, number))
                await trio.sleep(rng.expovariate(1 / 0.02))

        async with trio.open_nursery() as nursery:
            for line in range(users):
                nursery.start_soon(use, line)
        assert max(took) <= FLUSH + deadline_ms / 1000 + FLUSH + 1e-6
        assert min(took) >= FLUSH - 1e-6
        assert rig.log.count(Operation.FLUSH, IMAGE) <= len(took)
        if users >= 16:
            assert rig.log.count(Operation.FLUSH, IMAGE) <= len(took) / 4


async def test_plain_writes_cause_no_flush(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted(one_cache({1: 16 * MIB}, 16 * MIB)) as manager:
        disk = manager.devices[1]
        rig.log.clear()
        for line in range(0, 1500, 3):
            await write(disk, line * LINE, lines(1, line, 3, 1))
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        assert rig.log.count(Operation.FLUSH) == 0
        assert {call.store for call in rig.log.calls} == {IMAGE}
        assert rig.log.bytes_of(Operation.WRITE) == 5 * MIB, "full segments go out as they fill"
        assert manager.caches[1].last_flushed_segment_id == 5


async def test_ten_thousand_barriers_in_64_mib(autojump_clock: trio.testing.MockClock) -> None:
    """63 segments hold 128 records of 8 KiB each; when they are full, migration is forced, and it goes on.

    The last segment is a single disk's: with several it is kept for copying lines forward.
    """
    rig = Rig()
    rig.log.keep_data = False
    fit = 63 * 128
    async with rig.mounted(one_cache({1: 64 * MIB}, 64 * MIB)) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        assert (cache.nr_segments, cache.tunables["update_interval"], cache.tunables["allow_migrate"]) == (63, 0, 0)
        rig.log.clear()
        for line in range(fit):
            await write(disk, line * LINE, lines(1, line, 1, 1))
            await disk.flush()
        assert (cache.current_segment_id, cache.last_migrated_segment_id) == (63, 0)
        assert (disk.nr_dirty_caches, cache.nr_dirty_caches) == (fit, fit)
        assert {call.store for call in rig.log.calls} == {IMAGE}, "nothing was migrated"
        assert rig.log.bytes_of(Operation.WRITE) == fit * 2 * LINE == 63 * MIB
        assert rig.log.count(Operation.FLUSH) == fit

        await write(disk, fit * LINE, lines(1, fit, 1, 1))
        await disk.flush()
        assert cache.last_migrated_segment_id > 0
        assert rig.log.count(Operation.WRITE, backing(1)) > 0
        for line in range(fit + 1, 10_000):
            await write(disk, line * LINE, lines(1, line, 1, 1))
            await disk.flush()
        assert disk.nr_dirty_caches == cache.ring.recount(1) == 10_000 - cache.migrator.nr_migrated
        rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        content = await read_all(manager.devices[1])
    for line in range(10_000):
        assert content[line * LINE : (line + 1) * LINE] == lines(1, line, 1, 1), f"line {line}"
