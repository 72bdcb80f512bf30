# SPDX-License-Identifier: GPL-2.0-or-later
"""B02: dm-lc overwrote a slot when its segment was migrated in memory only, so that a crash revived old keys with other
blocks' data; lcfs overwrites a slot only when the tail that gives it up is durable in the superblock."""

from __future__ import annotations

import random

import trio.testing

from lcfs.engine import Superblock
from lcfs.engine.disk_format import SUPERBLOCK_MAX, unpack_superblock
from lcfs.testing import ALL, Model, Operation
from lcfs.testing.crash_states import crash_points
from lcfs.testing.log import Call
from tests.regress.support import IMAGE, LINE, LOG_START, Rig, found_after, recovered, write

SEGMENTS, BLOCKS = 4, 8
DISK = 32 * LINE


async def turn_the_ring(rig: Rig, model: Model) -> None:
    """Write four times what the ring holds, migrating all the time, a barrier here and there."""
    rng = random.Random(2)
    async with rig.mounted() as manager:
        disk = manager.devices[1]
        await manager.caches[1].set_tunable("allow_migrate", 1)
        await manager.caches[1].set_tunable("nr_max_batched_migration", 2)
        for number in range(4 * SEGMENTS * (BLOCKS - 1)):
            request = model.begin_write(1, rng.randrange(32) * LINE, LINE)
            await write(disk, request.offset, request.data)
            request.acknowledge()
            if number % 11 == 10:
                barrier = model.begin_barrier(1)
                await disk.flush()
                barrier.done()
        assert manager.caches[1].current_segment_id > 2 * SEGMENTS


def superblock_of(call: Call) -> Superblock:
    return unpack_superblock(call.data.ljust(SUPERBLOCK_MAX, b"\0"), 1 << 40)


def durable_tail(calls: list[Call], at: int) -> int:
    """The tail that a crash at that tick surely finds."""
    flushes = [c for c in calls if c.operation is Operation.FLUSH and c.ended is not None and c.ended < at]
    last = max((flush.began for flush in flushes), default=0)
    commits = [c for c in calls if c.operation is Operation.WRITE and c.offset < LOG_START and (c.ended or at) < last]
    return max((superblock_of(commit).tail for commit in commits), default=1)


async def test_a_slot_is_overwritten_after_the_tail_is_durable(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.format(SEGMENTS, BLOCKS)
    async with rig.mounted({1: DISK}):
        pass
    model = Model(rig.log.tick)
    model.add_disk(1, DISK, 1)
    media = rig.crash(lambda writes: [ALL] * len(writes)).storage.media
    began = rig.log.tick()
    rig.log.clear()
    await turn_the_ring(rig, model)

    calls = [call for call in rig.log.calls if call.store == IMAGE]
    overwrites = 0
    for call in calls:
        if call.operation is Operation.WRITE and call.offset >= LOG_START:
            position = int.from_bytes(call.data[32:40], "little")
            replaced = position // BLOCKS - SEGMENTS
            overwrites += replaced >= 1
            assert durable_tail(calls, call.began) > replaced or replaced < 1, f"segment {replaced} is overwritten"
    assert overwrites > 2 * SEGMENTS

    # The worst tear: the new data is there, the header is not, and the slot's old header is still intact.
    tried = 0
    for point in crash_points(media, rig.log, began):
        records = [p for p in point.pending if p.write is not None and p.path == IMAGE and p.write.offset >= LOG_START]
        for torn in records:
            assert torn.write is not None
            headless = (1 << torn.write.nr_sectors) - 1 & ~0xFF
            for others in (0, ALL):
                survival = [headless if pending is torn else others for pending in point.pending]
                found = await recovered(found_after(point, survival))
                model.check_recovered(found, point.at)
                tried += 1
    assert tried > 50
