# SPDX-License-Identifier: GPL-2.0-or-later
"""What a barrier may cost: one header block and its lines of log, one flush, and no segment of its own (B17, B18)."""

from __future__ import annotations

from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA
from lcfs.testing.fault import Operation
from lcfs.testing.world import IMAGES, Setup, World, make_media

BARRIERS = 12


async def count_costs() -> tuple[int, str] | None:
    """Barriers of one line each, and some of nothing; the number of the first that costs too much, and what it cost."""
    setup = Setup(blocks_per_segment=8, nr_segments=4)
    async with World(await make_media(setup), setup.model()) as world:
        await world.start()
        cache = world.manager.caches[1]
        await cache.set_tunable("update_interval", 0)
        for number in range(1, BARRIERS + 1):
            began = world.log.now
            await world.write(1, number * LINE, LINE)
            await world.barrier(1)
            calls = [call for call in world.log.calls if call.began > began and call.store == IMAGES[1]]
            written = sum(c.length for c in calls if c.operation is Operation.WRITE and c.offset >= SUPERBLOCK_AREA)
            flushes = sum(call.operation is Operation.FLUSH for call in calls)
            segments = -(-number // (setup.blocks_per_segment // 2))
            if (written, flushes) != (2 * LINE, 1) or cache.current_segment_id > segments:
                return number, f"{written} bytes of log, {flushes} flushes, {cache.current_segment_id} segments in use"
            began = world.log.now
            await world.barrier(1)
            if any(call.began > began for call in world.log.calls):
                return number, "a barrier with nothing dirty does I/O"
    return None
