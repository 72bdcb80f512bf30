# SPDX-License-Identifier: GPL-2.0-or-later
"""B33: dm-lc wrote the old dirty part of a line to the backing even when the line was overwritten as a whole; lcfs
forgets it and does no I/O."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.testing import Operation
from tests.regress.support import LINE, MIB, SECTOR, Rig, backing, lines, no_calls, on_backing, read, sectors, write


@pytest.mark.parametrize("nowait", [True, False])
@pytest.mark.parametrize("first, count", [(0, 1), (3, 2), (0, 8)])
async def test_a_full_overwrite_does_no_io(
    autojump_clock: trio.testing.MockClock, nowait: bool, first: int, count: int
) -> None:
    rig = Rig(nowait=nowait)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, first * SECTOR, sectors(1, first, count, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        with no_calls(rig.log):
            assert disk.write_nowait(0, lines(1, 0, 1, 2)) == LINE
        assert disk.nr_dirty_caches == 1
        rig.log.clear()
        await cache.drop_caches()
        assert [(call.offset, call.length) for call in rig.log.of(Operation.WRITE, backing(1))] == [(0, LINE)]
        assert await read(disk, 0, LINE) == lines(1, 0, 1, 2)
    assert on_backing(rig, 1)[:LINE] == lines(1, 0, 1, 2)


async def test_a_part_overwritten_by_the_same_part_does_no_io(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig(nowait=False)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, sectors(1, 0, 2, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        with no_calls(rig.log):
            await write(disk, 0, sectors(1, 0, 4, 2))
        assert (await read(disk, 0, LINE))[: 4 * SECTOR] == sectors(1, 0, 4, 2)
