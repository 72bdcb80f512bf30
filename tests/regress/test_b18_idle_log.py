# SPDX-License-Identifier: GPL-2.0-or-later
"""B18: dm-lc flushed empty buffers too, so that with its intervals set an idle log went round and round; lcfs does no I/O
where nothing is dirty, on request as well as on its intervals."""

from __future__ import annotations

import trio
import trio.testing

from tests.regress.support import MIB, Rig, lines, no_calls, write


async def test_nothing_dirty_nothing_written(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        with no_calls(rig.log):
            await disk.flush()
            await cache.flush_current_buffer()
        assert (cache.current_segment_id, cache.last_flushed_segment_id) == (0, 0)
        await write(disk, 0, lines(1, 0, 1, 1))
        await disk.flush()
        with no_calls(rig.log):
            for _ in range(10):
                await disk.flush()
                await cache.flush_current_buffer()
        assert (cache.current_segment_id, cache.last_flushed_segment_id) == (1, 1)


async def test_an_idle_cache_with_intervals_does_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await cache.set_tunable("flush_current_buffer_interval", 1)
        await cache.set_tunable("commit_super_block_interval", 1)
        await write(disk, 0, lines(1, 0, 1, 1))
        await trio.sleep(5)
        assert cache.last_flushed_segment_id == 1, "the interval flushes what is dirty"
        before = (cache.current_segment_id, cache.last_flushed_segment_id, cache.last_migrated_segment_id)
        with no_calls(rig.log):
            await trio.sleep(3600)
        assert (cache.current_segment_id, cache.last_flushed_segment_id, cache.last_migrated_segment_id) == before
