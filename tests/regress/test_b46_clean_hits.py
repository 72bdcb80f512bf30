# SPDX-License-Identifier: GPL-2.0-or-later
"""B46: dm-lc counted reads of clean lines as hits and read the backing all the same; lcfs serves them from the image
while they are there, and counts a miss when they are not."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.engine.stats import FULLSIZE, HIT
from lcfs.testing import Operation
from tests.regress.support import IMAGE, LINE, LOG_START, Rig, backing, lines, read, write

SEGMENTS, BLOCKS = 4, 8


@pytest.mark.parametrize("nowait", [True, False])
async def test_a_hit_is_served_from_the_image(autojump_clock: trio.testing.MockClock, nowait: bool) -> None:
    rig = Rig(nowait=nowait)
    await rig.format(SEGMENTS, BLOCKS)
    async with rig.mounted({1: 256 * LINE}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 4, 1))
        await cache.drop_caches()
        assert cache.nr_dirty_caches == 0

        cache.stats.clear()
        rig.log.clear()
        for _ in range(3):
            assert await read(disk, 0, 4 * LINE) == lines(1, 0, 4, 1)
        assert cache.stats.rows()[HIT | FULLSIZE] == sum(cache.stats.rows()) == 12
        reads = rig.log.of(Operation.READ)
        assert {call.store for call in reads} == {IMAGE}
        assert all(LOG_START < call.offset <= LOG_START + 4 * LINE for call in reads)

        # the ring comes round, and the line is on the backing only
        for line in range(100, 100 + SEGMENTS * (BLOCKS - 1)):
            await write(disk, line * LINE, lines(1, line, 1, 2))
        cache.stats.clear()
        rig.log.clear()
        assert await read(disk, 0, 4 * LINE) == lines(1, 0, 4, 1)
        assert cache.stats.rows()[FULLSIZE] == sum(cache.stats.rows()) == 4
        assert {call.store for call in rig.log.of(Operation.READ)} == {backing(1)}
