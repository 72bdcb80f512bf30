# SPDX-License-Identifier: GPL-2.0-or-later
"""B42: dm-lc wrote the superblock with the lock of every request held; in lcfs a commit, however slow, keeps no request
waiting."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine.geometry import SUPERBLOCK_AREA
from lcfs.testing import Effect, Operation
from tests.regress.support import IMAGE, LINE, MIB, Rig, lines, read, write


@pytest.mark.parametrize("nowait", [True, False])
async def test_requests_go_on_during_a_commit(autojump_clock: trio.testing.MockClock, nowait: bool) -> None:
    rig = Rig(nowait=nowait)
    async with rig.mounted({1: 4 * MIB}) as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 300, 1))
        slow = rig.fault(IMAGE, Operation.WRITE, Effect.HANG, end=SUPERBLOCK_AREA)
        nursery.start_soon(cache.commit_super_block)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.met == 1
        with trio.fail_after(0.001):
            for line in range(0, 600, 7):
                await write(disk, line * LINE, lines(1, line, 1, 2))
                assert await read(disk, line * LINE, LINE) == lines(1, line, 1, 2)
            assert await read(disk, 900 * LINE, LINE) == bytes(LINE)
            # the log becomes durable meanwhile, too
            await disk.flush()
        assert slow.met == 1
        slow.release()
