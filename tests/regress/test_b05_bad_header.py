# SPDX-License-Identifier: GPL-2.0-or-later
"""B05: dm-lc ended recovery at the first bad header, dropping all newer durable segments without a word, whose headers
could come back later; lcfs tells a torn tail from a medium error, refuses to mount over the latter, and revives
nothing."""

from __future__ import annotations

import logging
import re

import pytest
import trio.testing

from lcfs.engine import Damaged, Failed
from lcfs.testing import ALL, keep_all, lose_all
from tests.plugins.log_check import ExpectLog
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, read, recovered, write


async def three_durable_records() -> Rig:
    """Lines 0, 1 and 2, each made durable by a barrier of its own: headers at blocks 0, 2 and 4 of segment 1."""
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        for line in range(3):
            await write(manager.devices[1], line * LINE, lines(1, line, 1, line))
            await manager.devices[1].flush()
        return rig.crash(lose_all)


def damage(rig: Rig, block: int) -> None:
    """One bit of a block of segment 1 is not what was written."""
    medium, offset = rig.medium(IMAGE), MIB + block * LINE + 100
    flipped = bytes([medium.durable.read(offset, 1)[0] ^ 4])
    medium.durable.write(offset, flipped)
    medium.live.write(offset, flipped)


@pytest.mark.parametrize("block", [0, 2])
async def test_a_damaged_header_is_not_the_end_of_the_log(autojump_clock: trio.testing.MockClock, block: int) -> None:
    rig = await three_durable_records()
    damage(rig, block)
    before = rig.medium(IMAGE).live.copy()
    with pytest.raises(Damaged, match=rf"{re.escape(IMAGE)}: the log record at segment 1, block {block} was durable"):
        async with rig.mounted():
            pass
    assert rig.medium(IMAGE).live == before
    assert not rig.storage.is_open(IMAGE)
    damage(rig, block)
    assert (await recovered(rig))[1][: 3 * LINE] == b"".join(lines(1, line, 1, line) for line in range(3))


async def test_a_damaged_line_leaves_newer_records(autojump_clock: trio.testing.MockClock, expect_log: ExpectLog) -> None:
    rig = await three_durable_records()
    damage(rig, 3)
    expect_log(r"damaged", level=logging.ERROR)
    async with rig.mounted() as manager:
        disk = manager.devices[1]
        assert manager.caches[1].state.startswith("degraded 1 damaged line")
        assert await read(disk, 0, LINE) == lines(1, 0, 1, 0)
        with pytest.raises(Failed, match="line 1 of disk 1 is damaged"):
            await read(disk, LINE, LINE)
        assert await read(disk, 2 * LINE, LINE) == lines(1, 2, 1, 2)


async def test_an_abandoned_timeline_stays_dead(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.format(4, 8)
    async with rig.mounted({1: 32 * LINE}) as manager:
        # two full segments go to the image and are not flushed; of the two only the second reaches the medium
        await write(manager.devices[1], 0, lines(1, 0, 15, 1))
        await trio.testing.wait_all_tasks_blocked()
        rig = rig.crash({IMAGE: lambda writes: [0, ALL], backing(1): keep_all})
    lost = bytes(14 * LINE)
    for number in (2, 3):
        # the first segment is written again: behind it lies the intact header of the one that was abandoned
        async with rig.mounted() as manager:
            disk = manager.devices[1]
            assert (await read(disk, 0, 32 * LINE))[7 * LINE : 14 * LINE] == lost[7 * LINE :]
            await write(disk, 0, lines(1, 0, 7, number))
            await disk.flush()
            rig = rig.crash(lose_all)
    assert await recovered(rig) == {1: lines(1, 0, 7, 3) + bytes(25 * LINE)}
