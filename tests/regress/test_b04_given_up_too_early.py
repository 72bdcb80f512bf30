# SPDX-License-Identifier: GPL-2.0-or-later
"""B04: dm-lc discarded migrated data before the superblock said so, and after a crash migrated the trimmed bytes; lcfs
leaves a segment alone until the tail that gives it up is durable, so a crash at any moment of a migration loses
nothing."""

from __future__ import annotations

import random

import trio.testing

from lcfs.testing import Operation, keep_all
from lcfs.testing.crash_states import crash_points, survivals
from tests.regress.support import IMAGE, LINE, MIB, SECTOR, Rig, found_after, lines, read_all, recovered, sectors, write


async def test_a_crash_at_any_moment_of_a_migration_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB}) as manager:
        cache, (first, second) = manager.caches[1], manager.devices.values()
        for round in range(3):
            await write(first, round * LINE, lines(1, round, 4, round))
            await write(second, (8 * round + 3) * SECTOR, sectors(2, 8 * round + 3, 2, round))
            await first.flush()
            cache.close_segment()
        wanted = {1: await read_all(first), 2: await read_all(second)}
        media = rig.crash(keep_all).storage.media
        began = rig.log.tick()
        rig.log.clear()
        await cache.drop_caches()
        assert cache.last_migrated_segment_id == 3
        calls = list(rig.log.calls)
    assert [call for call in calls if call.operation is Operation.WRITE and call.store == IMAGE], "the tail was committed"
    rig.log.calls = calls

    rng = random.Random(4)
    tried = 0
    for point in crash_points(media, rig.log, began):
        for survival in survivals(point.pending, rng):
            assert await recovered(found_after(point, survival)) == wanted, f"power cut at {point.at}"
            tried += 1
    assert tried > 10
