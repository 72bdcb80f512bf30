# SPDX-License-Identifier: GPL-2.0-or-later
"""B20: dm-lc acknowledged barriers whose device flush had failed; lcfs fails them, and every later one until the cache is
mounted anew, since a flush that succeeds after one that failed proves nothing."""

from __future__ import annotations

import errno
import logging

import pytest
import trio
import trio.testing

from lcfs.engine import Failed, LcfsError
from lcfs.testing import Effect, Operation, lose_all
from tests.plugins.log_check import ExpectLog
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, read, recovered, write


async def test_a_failed_flush_of_the_image_fails_every_barrier(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog
) -> None:
    rig = Rig()
    expect_log(rf"cache 1 has failed: {IMAGE} could not be flushed", level=logging.ERROR)
    expect_log(r"cache 1 was not left clean", level=logging.ERROR, at_least=0)
    errors: list[int] = []
    async with rig.doomed({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        await disk.flush()
        rig.fault(IMAGE, Operation.FLUSH, Effect.LOSE, times=1)

        async def barrier() -> None:
            try:
                await disk.flush()
            except LcfsError as exc:
                errors.append(exc.errno)

        await write(disk, 0, lines(1, 0, 1, 2))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(barrier)
        await write(disk, LINE, lines(1, 1, 1, 2))
        await barrier()
        assert errors == [errno.EIO] * 4
        for act in (cache.flush_current_buffer, cache.commit_super_block, cache.drop_caches):
            with pytest.raises(Failed):
                await act()
        assert cache.state.startswith("failed")
        assert await read(disk, 0, 2 * LINE) == lines(1, 0, 2, 2)
        after = rig.crash(lose_all)
    assert (await recovered(after))[1][:LINE] == lines(1, 0, 1, 1)


async def test_a_failed_flush_of_a_backing_keeps_its_lines(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog
) -> None:
    rig = Rig()
    expect_log(r"disk 1 is degraded")
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        await disk.flush()
        rig.fault(backing(1), Operation.FLUSH, Effect.LOSE, times=1)
        with pytest.raises(LcfsError):
            await cache.drop_caches()
        assert (disk.nr_dirty_caches, cache.last_migrated_segment_id) == (1, 0)
        assert (await recovered(rig.crash(lose_all)))[1][:LINE] == lines(1, 0, 1, 1)
        await cache.drop_caches()
        assert (disk.nr_dirty_caches, cache.last_migrated_segment_id) == (0, 1)
        assert (await recovered(rig.crash(lose_all)))[1][:LINE] == lines(1, 0, 1, 1)


async def test_a_failed_flush_without_a_cache_fails_all_that_follow(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    with pytest.raises(Failed, match="disk 1 has failed"):
        await _fail_a_flush_without_a_cache(rig)


async def _fail_a_flush_without_a_cache(rig: Rig) -> None:
    async with rig.mounted() as manager:
        await manager.message(f"create 1 {backing(1)} 1M")
        disk = manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        rig.fault(backing(1), Operation.FLUSH, Effect.LOSE, times=1)
        errors: list[Exception] = []

        async def barrier() -> None:
            try:
                await disk.flush()
            except (LcfsError, OSError) as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(barrier)
        await write(disk, LINE, lines(1, 1, 1, 1))
        await barrier()
        assert [exc.errno for exc in errors] == [errno.EIO] * 4  # type: ignore[attr-defined]
        with pytest.raises(Failed):
            await disk.flush()
        assert disk.state.startswith("failed")
