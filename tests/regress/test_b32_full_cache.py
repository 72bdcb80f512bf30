# SPDX-License-Identifier: GPL-2.0-or-later
"""B32: a writer that found dm-lc's cache full waited with everything locked, and for up to a second too long; in lcfs it
waits alone, and goes on at the moment there is room."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine import Device
from lcfs.testing import Effect, Operation
from tests.regress.support import LINE, MIB, Rig, backing, lines, read, write

SEGMENTS, BLOCKS = 4, 8


def fill(disk: Device) -> int:
    """Write lines until the next one has to wait; how many."""
    count = 0
    while disk.write_nowait(count * LINE, lines(disk.id, count, 1, 1)) == LINE:
        count += 1
    return count


async def test_only_the_writer_waits(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.format(SEGMENTS, BLOCKS)
    async with rig.mounted({1: MIB, 2: MIB}) as manager, trio.open_nursery() as nursery:
        cache, (disk, other) = manager.caches[1], manager.devices.values()
        await manager.message("create 3 /disk3.img 1M")
        await write(other, 0, lines(2, 0, 2, 1))
        full = fill(disk)
        segments = cache.current_segment_id
        hung = rig.fault(backing(1), Operation.WRITE, Effect.HANG)
        written: list[float] = []

        async def writer() -> None:
            await write(disk, 100 * LINE, lines(1, 100, 1, 2))
            written.append(trio.current_time())

        nursery.start_soon(writer)
        await trio.testing.wait_all_tasks_blocked()
        assert (written, hung.met, cache.current_segment_id) == ([], 1, segments)
        began = trio.current_time()
        with trio.fail_after(0.5):
            assert await read(disk, 0, full * LINE) == lines(1, 0, full, 1)
            assert await read(disk, 100 * LINE, LINE) == bytes(LINE)
            assert await read(other, 0, 2 * LINE) == lines(2, 0, 2, 1)
            await disk.flush()
            await cache.set_tunable("barrier_deadline_ms", 5)
            await cache.commit_super_block()
            await write(manager.devices[3], 0, lines(3, 0, 1, 1))
            await manager.devices[3].flush()
        assert trio.current_time() == began, "none of it had to wait"
        await trio.sleep(1.234)
        hung.release()
        await trio.testing.wait_all_tasks_blocked()
        assert written == [began + 1.234]


@pytest.mark.parametrize("slow", [0.01, 0.3, 2.0])
async def test_the_writer_goes_on_when_there_is_room(autojump_clock: trio.testing.MockClock, slow: float) -> None:
    rig = Rig()
    await rig.format(SEGMENTS, BLOCKS)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        count = fill(disk)
        assert count > SEGMENTS * (BLOCKS - 1) // 2
        # the last segment is given out once the oldest was found good
        await write(disk, count * LINE, lines(1, count, 1, 2))
        while disk.write_nowait((count + 1) * LINE, lines(1, count + 1, 1, 2)) == LINE:
            count += 1
        await disk.flush()
        rig.delays[backing(1)].writes = slow
        began = trio.current_time()
        await write(disk, 100 * LINE, lines(1, 100, 1, 2))
        # the lines are neighbours: one write, after which there is room at once
        assert trio.current_time() - began == pytest.approx(slow, abs=1e-6)
        assert cache.tunables["allow_migrate"] == 0


async def test_migration_begins_before_the_cache_is_full(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.format(32, BLOCKS)
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await manager.set_migrate_threshold(disk, 0)
        await cache.set_tunable("update_interval", 3600)
        for line in range(31 * (BLOCKS - 1)):
            assert disk.write_nowait(line * LINE, lines(1, line, 1, 1)) == LINE, "there is always room"
            await trio.testing.wait_all_tasks_blocked()
        assert cache.tunables["allow_migrate"] == 0
        assert cache.last_migrated_segment_id > 0
