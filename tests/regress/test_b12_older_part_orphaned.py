# SPDX-License-Identifier: GPL-2.0-or-later
"""B12: after a recovery dm-lc had forgotten the older part of a line that was written in two parts and read the backing
instead; in lcfs a newer version of a line carries the older dirty sectors along, so the newest one has them all."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.testing import lose_all
from tests.regress.support import LINE, MIB, SECTOR, Rig, lines, read, recovered, sectors, write


@pytest.mark.parametrize("nowait", [True, False])
async def test_both_parts_are_read_after_a_recovery(autojump_clock: trio.testing.MockClock, nowait: bool) -> None:
    rig = Rig(nowait=nowait)
    below = lines(1, 0, 1, 9)
    rig.add_backing(1, below)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, sectors(1, 0, 3, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        await write(disk, 2 * SECTOR, sectors(1, 2, 4, 2))
        await disk.flush()
        rig = rig.crash(lose_all)
    wanted = sectors(1, 0, 2, 1) + sectors(1, 2, 4, 2) + below[6 * SECTOR :]
    async with rig.mounted() as manager:
        assert await read(manager.devices[1], 0, LINE) == wanted
        assert await read(manager.devices[1], 0, SECTOR) == wanted[:SECTOR]
    assert (await recovered(rig))[1][:LINE] == wanted
