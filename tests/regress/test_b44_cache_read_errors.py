# SPDX-License-Identifier: GPL-2.0-or-later
"""B44: dm-lc passed on an error of reading the cache even when the backing had the same data; lcfs serves a clean line
from the backing then, and only a dirty one is EIO."""

from __future__ import annotations

import errno
import logging

import pytest
import trio.testing

from lcfs.engine import LcfsError
from lcfs.testing import Effect, Operation
from tests.plugins.log_check import ExpectLog
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, lines, read, write


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.SHORT, Effect.CORRUPT])
async def test_a_clean_line_comes_from_the_backing(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog, effect: Effect
) -> None:
    rig = Rig()
    unreadable = effect is not Effect.CORRUPT
    said = "cannot be read from" if unreadable else "is damaged on"
    expect_log(rf"{said} /ssd.img; it is clean, the backing serves it")
    expect_log(r"/ssd.img cannot be read at block", at_least=0)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 4, 1))
        await cache.drop_caches()
        bad = rig.fault(IMAGE, Operation.READ, effect, times=None, start=LOG_START)
        assert await read(disk, 0, 4 * LINE) == lines(1, 0, 4, 1)
        assert bad.met
        assert await read(disk, LINE + 100, 1000) == lines(1, 1, 1, 1)[100:1100]
        assert (cache.state, disk.state) == ("running", "running")
        assert (cache.crc_errors, cache.read_errors) >= ((0, 1) if unreadable else (1, 0))


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.SHORT, Effect.CORRUPT])
async def test_a_dirty_line_is_an_error(autojump_clock: trio.testing.MockClock, expect_log: ExpectLog, effect: Effect) -> None:
    rig = Rig()
    unreadable = effect is not Effect.CORRUPT
    said = "cannot be read from" if unreadable else "is damaged on"
    expect_log(rf"line 2 of disk 1 {said} /ssd.img$", level=logging.ERROR)
    expect_log(r"/ssd.img cannot be read at block", at_least=0)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 4, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        place = LOG_START + 3 * LINE
        bad = rig.fault(IMAGE, Operation.READ, effect, times=None, start=place, end=place + LINE)
        with pytest.raises(LcfsError, match=f"line 2 of disk 1 {said} /ssd.img") as refusal:
            await read(disk, 2 * LINE, LINE)
        assert refusal.value.errno == errno.EIO
        for line in (0, 1, 3):
            assert await read(disk, line * LINE, LINE) == lines(1, line, 1, 1)
        # it was a passing error: nothing is lost, nothing was given up
        bad.release()
        assert await read(disk, 0, 4 * LINE) == lines(1, 0, 4, 1)


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.CORRUPT])
async def test_a_single_error_is_read_again(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog, effect: Effect
) -> None:
    rig = Rig()
    expect_log(r"/ssd.img cannot be read at block", at_least=0)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 4, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        rig.fault(IMAGE, Operation.READ, effect, times=1, start=LOG_START)
        assert await read(disk, 0, 4 * LINE) == lines(1, 0, 4, 1)
        assert cache.crc_errors == 0
