# SPDX-License-Identifier: GPL-2.0-or-later
"""B13: dm-lc took a segment's RAM buffer by its id mod 64 but the first after a resume always from slot 0, so that a
buffer was reused while it was being flushed; in lcfs a buffer belongs to its segment until all of it is on the image."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine.write_buffer import NR_BUFFERS
from lcfs.testing import Effect, Operation, keep_all
from tests.regress.support import IMAGE, LINE, LOG_START, Rig, lines, read_all, recovered, write

BLOCKS = 4
PER_SEGMENT = BLOCKS - 1
DISK_LINES = (NR_BUFFERS + 1) * PER_SEGMENT


@pytest.mark.parametrize("first_id", [1, 62, 63, 64, 65])
async def test_no_buffer_is_reused_while_it_is_flushed(autojump_clock: trio.testing.MockClock, first_id: int) -> None:
    rig = Rig()
    await rig.format(160, BLOCKS)
    async with rig.mounted({1: DISK_LINES * LINE}) as manager:
        for _ in range(first_id - 1):
            await write(manager.devices[1], 0, lines(1, 0, PER_SEGMENT, 1))
    async with rig.mounted() as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        slow = rig.fault(IMAGE, Operation.WRITE, Effect.HANG, start=LOG_START)
        for segment in range(NR_BUFFERS):
            await write(disk, segment * PER_SEGMENT * LINE, lines(1, segment * PER_SEGMENT, PER_SEGMENT, 2))
            await trio.testing.wait_all_tasks_blocked()
        assert (slow.met, cache.current_segment_id) == (1, first_id - 1 + NR_BUFFERS)
        last = NR_BUFFERS * PER_SEGMENT
        nursery.start_soon(write, disk, last * LINE, lines(1, last, PER_SEGMENT, 2))
        await trio.testing.wait_all_tasks_blocked()
        assert cache.current_segment_id == first_id - 1 + NR_BUFFERS, "no buffer is free"
        wanted = lines(1, 0, DISK_LINES, 2)
        assert (await read_all(disk))[: last * LINE] == wanted[: last * LINE]
        slow.release()
        await trio.testing.wait_all_tasks_blocked()
        assert cache.current_segment_id == first_id + NR_BUFFERS
        await disk.flush()
        after = rig.crash(keep_all)
    assert await recovered(after) == {1: wanted}
