# SPDX-License-Identifier: GPL-2.0-or-later
"""B08: dm-lc's migration could write an old snapshot of a line over a newer version that was written back meanwhile and
marked clean; lcfs writes a disk's lines back one job at a time, each with the newest version there is when it begins."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.testing import Effect, Operation, lose_all
from tests.plugins.log_check import ExpectLog
from tests.regress.support import LINE, MIB, SECTOR, Rig, backing, lines, on_backing, one_cache, recovered, sectors, write


@pytest.mark.parametrize("whole", [True, False])
async def test_a_delayed_write_back_does_not_overwrite_a_newer_one(autojump_clock: trio.testing.MockClock, whole: bool) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        slow = rig.fault(backing(1), Operation.WRITE, Effect.HANG)
        nursery.start_soon(cache.drop_caches)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.met == 1

        newer = lines(1, 0, 1, 2) if whole else sectors(1, 0, 3, 2)
        await write(disk, 0, newer)
        nursery.start_soon(cache.drain, disk)
        await trio.testing.wait_all_tasks_blocked()
        slow.release()
        while disk.nr_dirty_caches:
            await trio.testing.wait_all_tasks_blocked()
    wanted = newer + lines(1, 0, 1, 1)[len(newer) :]
    assert on_backing(rig, 1)[:LINE] == wanted
    assert (await recovered(rig.crash(lose_all)))[1][:LINE] == wanted


async def test_a_repeated_write_back_takes_the_newest_version(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog
) -> None:
    rig = Rig()
    expect_log(r"disk 1 is degraded: .* its dirty lines stay in the cache")
    async with rig.mounted(one_cache({1: MIB}, 16 * MIB)) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        cache.close_segment()
        rig.fault(backing(1), Operation.WRITE, Effect.ERROR)
        await cache.set_tunable("allow_migrate", 1)
        await trio.sleep(0.5)
        assert (disk.nr_dirty_caches, disk.state.split()[0]) == (1, "degraded")
        await write(disk, SECTOR, sectors(1, 1, 1, 2))
        cache.close_segment()
        await trio.sleep(5)
        assert (disk.nr_dirty_caches, disk.state) == (0, "running")
        assert cache.last_migrated_segment_id == 2
    wanted = lines(1, 0, 1, 1)[:SECTOR] + sectors(1, 1, 1, 2) + lines(1, 0, 1, 1)[2 * SECTOR :]
    assert on_backing(rig, 1)[:LINE] == wanted
