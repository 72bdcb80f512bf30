# SPDX-License-Identifier: GPL-2.0-or-later
"""B09: a read of a line in dm-lc's RAM first wrote it to the backing, racing with the migration of an older version; lcfs
puts the answer together in memory from RAM, image and backing, and writes nothing."""

from __future__ import annotations

import trio
import trio.testing

from lcfs.testing import Effect, Operation
from tests.regress.support import LINE, MIB, SECTOR, Rig, backing, lines, no_calls, read, sectors, write


async def test_a_read_during_a_migration_gives_the_newest(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        slow = rig.fault(backing(1), Operation.WRITE, Effect.HANG)
        nursery.start_soon(cache.drop_caches)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.met == 1
        await write(disk, 2 * SECTOR, sectors(1, 2, 2, 2))
        wanted = lines(1, 0, 1, 1)[: 2 * SECTOR] + sectors(1, 2, 2, 2) + lines(1, 0, 1, 1)[4 * SECTOR :]
        with no_calls(rig.log, Operation.WRITE, Operation.FLUSH, Operation.DISCARD):
            assert await read(disk, 0, LINE) == wanted
        slow.release()
        await trio.testing.wait_all_tasks_blocked()
        assert await read(disk, 0, LINE) == wanted


async def test_partly_dirty_lines_are_merged_in_memory(autojump_clock: trio.testing.MockClock) -> None:
    old = lines(1, 0, 4, 1)
    for nowait in (True, False):
        rig = Rig(nowait=nowait)
        rig.add_backing(1, old)
        async with rig.mounted({1: MIB}) as manager:
            cache, disk = manager.caches[1], manager.devices[1]
            await write(disk, 3 * SECTOR, sectors(1, 3, 1, 2))
            await write(disk, LINE + 7 * SECTOR, sectors(1, 15, 3, 3))
            wanted = old[: 3 * SECTOR] + sectors(1, 3, 1, 2) + old[4 * SECTOR : 15 * SECTOR] + sectors(1, 15, 3, 3)
            wanted += old[18 * SECTOR :]
            for flush in (False, True):
                if flush:
                    await disk.flush()
                    cache.close_segment()
                    await trio.testing.wait_all_tasks_blocked()
                with no_calls(rig.log, Operation.WRITE, Operation.FLUSH, Operation.DISCARD):
                    assert await read(disk, 0, 4 * LINE) == wanted
                    for line in range(4):
                        assert await read(disk, line * LINE, LINE) == wanted[line * LINE : (line + 1) * LINE]
                assert disk.nr_dirty_caches == 3
