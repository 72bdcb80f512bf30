# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty lines that the image does not give out: patience, and its end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock as Clock

from lcfs.engine.errors import Failed, NoSpace
from lcfs.engine.geometry import LINE
from lcfs.engine.unreadable import PATIENCE
from lcfs.testing import Fault, Operation, lose_all
from tests.engine.rig import Lab, Rig, page
from tests.plugins.log_check import ExpectLog

TWO_DISKS = {1: 64 * LINE, 2: 64 * LINE}


async def unreadable(rig: Rig, disk: int, line: int) -> Fault:
    """A line that is on the image, dirty, and meets an error whenever it is read."""
    await rig.write(disk, line * LINE, page(line))
    await rig.cache.barrier()
    rig.cache.close_segment()
    place = rig.index(disk, line) * LINE
    return rig.image.add(Fault(Operation.READ, start=place, end=place + LINE, times=None))


@pytest.mark.parametrize("disks", [{1: 64 * LINE}, TWO_DISKS])
@pytest.mark.parametrize("away", [1.0, 10.0, PATIENCE - 5])
async def test_what_cannot_be_read_for_a_while_is_waited_for(
    disks: dict[int, int], away: float, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    """A full ring, writers waiting: nothing is moved without its data, nothing counts as damaged."""
    expect_log("1 lines cannot be read", at_least=0)
    lab = await Lab.new(disks=disks, segments=5)
    other = max(disks)
    async with lab.run(nowait=False) as rig:
        fault = await unreadable(rig, 1, 3)
        async with trio.open_nursery() as nursery:

            async def fill() -> None:
                for number in range(100):
                    await rig.write(other, (10 + number % 50) * LINE, page(number))

            nursery.start_soon(fill)
            await trio.sleep(away)
            assert rig.cache.nr_dirty_caches > 0
            assert rig.cache.crc_errors == 0
            assert rig.cache.state.startswith("degraded 1 lines cannot be read from image")
            fault.release()
        assert rig.cache.state == "running"
        assert rig.cache.crc_errors == 0
        assert await rig.read(1, 3 * LINE, LINE) == page(3)
        await rig.cache.drop_caches()
        assert rig.backing(1, 3 * LINE, LINE) == page(3)
        rig.check_counts()


@pytest.mark.parametrize("disks", [{1: 64 * LINE}, TWO_DISKS])
async def test_patience_ends_where_writers_wait(disks: dict[int, int], autojump_clock: Clock, expect_log: ExpectLog) -> None:
    """One sector that is gone for good does not stop the ring: the line is given up, and says so ever after."""
    expect_log("1 lines cannot be read")
    expect_log("line 3 of disk 1 is damaged on image")
    expect_log("image cannot be read at block", at_least=0)
    expect_log("1 lines of image are damaged", at_least=0)
    lab = await Lab.new(disks=disks, segments=5)
    other = max(disks)
    async with lab.run(nowait=False) as rig:
        fault = await unreadable(rig, 1, 3)
        began = trio.current_time()
        for number in range(100):
            await rig.write(other, (10 + number % 50) * LINE, page(number))
            if rig.cache.crc_errors:
                fault.release()  # what is written to a bad sector can be read again
        assert PATIENCE <= trio.current_time() - began < 3 * PATIENCE
        assert rig.cache.state.startswith("degraded 1 damaged lines on image")
        await rig.cache.barrier()
        rig.check_counts()
        lab = lab.crash(lose_all)
    async with lab.run() as rig:
        with pytest.raises(Failed, match="line 3 of disk 1 is damaged"):
            await rig.read(1, 3 * LINE, LINE)


async def test_while_the_device_is_away_nothing_is_given_up(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    """Not one block can be read, for hours: writers are told that there is no room, and no line loses its data."""
    expect_log("lines cannot be read")
    expect_log("image cannot be read at block", at_least=0)
    lab = await Lab.new(disks=TWO_DISKS, segments=5)
    async with lab.run(nowait=False) as rig:
        for line in range(4):
            await rig.write(1, line * LINE, page(line))
        await rig.cache.barrier()
        rig.cache.close_segment()
        fault = rig.image.add(Fault(Operation.READ, times=None))
        with pytest.raises(NoSpace, match="the cache is full and image cannot be read"):
            for number in range(100):
                await rig.write(2, number % 60 * LINE, page(number))
        await trio.sleep(10_000)
        assert (rig.cache.crc_errors, rig.cache.ring.bad_lines) == (0, set())
        fault.release()
        await rig.cache.drop_caches()
        assert rig.cache.state == "running"
        for line in range(4):
            assert rig.backing(1, line * LINE, LINE) == page(line)


async def test_where_nobody_waits_patience_has_no_end(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("1 lines cannot be read")
    async with Rig.running(tunables={"update_interval": 0, "allow_migrate": 1}, nowait=False) as rig:
        fault = await unreadable(rig, 1, 3)
        rig.log.clear()
        await trio.sleep(10 * PATIENCE)
        assert rig.cache.state.startswith("degraded 1 lines cannot be read")
        assert len(rig.log.of(Operation.READ, "image")) < 200, "the pauses between two attempts become longer"
        fault.release()
        await trio.sleep(60)
        assert (rig.cache.state, rig.cache.nr_dirty_caches) == ("running", 0)
        assert rig.backing(1, 3 * LINE, LINE) == page(3)


async def test_an_overwritten_line_is_not_missed(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("1 lines cannot be read")
    async with Rig.running(nowait=False) as rig:
        await unreadable(rig, 1, 3)
        with pytest.raises(Failed, match="1 lines of disk 1 cannot be read"):
            await rig.cache.drop_caches()
        await rig.write(1, 3 * LINE, page(9))
        assert rig.cache.state == "running"
        await rig.cache.drop_caches()
        assert rig.backing(1, 3 * LINE, LINE) == page(9)


async def test_one_unreadable_block_costs_a_long_read_only_itself(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("image cannot be read at block")
    expect_log("line 4 of disk 1 cannot be read from image; it is clean")
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 0, page(1, 6))
        await rig.cache.drop_caches()
        place = rig.index(1, 4) * LINE
        rig.image.add(Fault(Operation.READ, start=place, end=place + LINE, times=None))
        assert await rig.read(1, 0, 6 * LINE) == page(1, 6)
        assert [bool(rig.index(1, line)) for line in range(6)] == [True, True, True, True, False, True]
