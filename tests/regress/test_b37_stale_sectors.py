# SPDX-License-Identifier: GPL-2.0-or-later
"""B37: the sectors of a dm-lc line that nobody had written held what was in the buffer before, another disk's data
included; in lcfs they are zero on the image."""

from __future__ import annotations

import trio.testing

from lcfs.testing import Operation
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, SECTOR, Rig, read, sectors, write

SECRET = b"SECRET!!" * (LINE // 8)


async def test_unwritten_sectors_are_zero_on_the_image(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: 8 * MIB, 2: MIB}) as manager:
        cache, (disk, other) = manager.caches[1], manager.devices.values()
        await write(disk, 0, SECRET * 4 * 255)
        await cache.drop_caches()
        rig.log.clear()
        for line in range(40):
            at = line * 8 + line % 8
            await write(other, at * SECTOR, sectors(2, at, 1, line))
        # not aligned to sectors either: what is around it comes from the backing, which is zero
        await write(other, 100 * LINE + 100, b"x" * 300)
        await other.flush()
        (record,) = rig.log.of(Operation.WRITE, IMAGE)
        assert record.offset >= LOG_START
        assert len(record.data) == (1 + 41) * LINE
        wanted = bytearray(41 * LINE)
        for line in range(40):
            at = line * 8 + line % 8
            wanted[at * SECTOR : (at + 1) * SECTOR] = sectors(2, at, 1, line)
        wanted[40 * LINE + 100 : 40 * LINE + 400] = b"x" * 300
        assert record.data[LINE:] == wanted
        assert await read(other, 0, 40 * LINE) == wanted[: 40 * LINE]
