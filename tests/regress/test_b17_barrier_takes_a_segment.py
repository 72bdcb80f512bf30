# SPDX-License-Identifier: GPL-2.0-or-later
"""B17: each barrier on dm-lc used up the rest of a 1-MiB segment and a line of the next; in lcfs it closes a record of as
many blocks as it needs, and the next record goes right behind it in the same segment."""

from __future__ import annotations

import trio.testing

from lcfs.testing import Operation, lose_all
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, lines, recovered, write


async def test_barriers_share_a_segment(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        assert cache.nr_segments == 3
        rig.log.clear()
        for number in range(100):
            await write(disk, number * LINE, lines(1, number, 1, number))
            await disk.flush()
        writes = [(call.offset, call.length) for call in rig.log.of(Operation.WRITE)]
        assert writes == [(LOG_START + number * 2 * LINE, 2 * LINE) for number in range(100)]
        assert cache.current_segment_id == cache.last_flushed_segment_id == 1
        assert (cache.last_migrated_segment_id, disk.nr_dirty_caches) == (0, 100)
        rig = rig.crash(lose_all)
    wanted = b"".join(lines(1, number, 1, number) for number in range(100))
    async with rig.mounted() as manager:
        # nor does a recovery waste more than the rest of the segment
        await write(manager.devices[1], 100 * LINE, lines(1, 100, 1, 100))
        await manager.devices[1].flush()
        assert manager.caches[1].current_segment_id == 2
        assert rig.log.of(Operation.WRITE, IMAGE)[-1].offset == LOG_START + MIB
    assert (await recovered(rig))[1][: 101 * LINE] == wanted + lines(1, 100, 1, 100)
