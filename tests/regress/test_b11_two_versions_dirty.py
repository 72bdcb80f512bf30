# SPDX-License-Identifier: GPL-2.0-or-later
"""B11: after a recovery dm-lc had the old and the new version of a block both dirty and migrated them in one unordered
batch; lcfs clears the old version's dirty bits when it replays the newer one, so only the newest is ever written back."""

from __future__ import annotations

import trio.testing

from lcfs.testing import Operation, lose_all
from tests.regress.support import LINE, MIB, SECTOR, Rig, backing, lines, on_backing, one_cache, sectors, write


async def test_only_the_newest_version_is_migrated(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted(one_cache({1: MIB}, 8 * MIB)) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        for number in range(1, 6):
            await write(disk, 0, lines(1, 0, 2, number))
            await write(disk, 4 * LINE + number * SECTOR, sectors(1, 32 + number, 2, number))
            await disk.flush()
            if number in (2, 3):
                cache.close_segment()
        rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        assert cache.tunables["nr_max_batched_migration"] > cache.current_segment_id == 3
        assert disk.nr_dirty_caches == cache.ring.recount(1) == 3
        await cache.drop_caches()
        writes = [(call.offset, call.length) for call in rig.log.of(Operation.WRITE, backing(1))]
        assert writes == [(0, 2 * LINE), (4 * LINE + SECTOR, 6 * SECTOR)]
    parts = b"".join(sectors(1, 32 + number, 1, number) for number in range(1, 6)) + sectors(1, 38, 1, 5)
    assert on_backing(rig, 1)[: 2 * LINE] == lines(1, 0, 2, 5)
    assert on_backing(rig, 1)[4 * LINE + SECTOR :][: 6 * SECTOR] == parts
