# SPDX-License-Identifier: GPL-2.0-or-later
"""The sixteen counters: a scripted sequence of reads and writes, of part and whole lines, in RAM and on the image, moves
exactly the counters that the four keys say, and what is read is right at every step.

A request counts once for each 4-KiB piece. `hit`: the line is cached. `on_buffer`: it is in the open record, not yet sealed.
`fullsize`: the piece is the whole line.
"""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
import trio.testing

from lcfs.engine import Cache, Device, NoSpace
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.stats import FULLSIZE, HIT, NR_COUNTERS, ON_BUFFER, WRITE
from lcfs.testing.tags import tagged
from tests.regress.support import MIB, Rig, read, write

IN_RAM = HIT | ON_BUFFER


@attrs.define
class Script:
    """Requests to one disk, each with the pieces it is to be counted as; `content` is what the disk holds."""

    cache: Cache
    disk: Device
    content: bytearray
    counted: Counter[int] = attrs.field(factory=Counter)
    number: int = 0

    async def write(self, offset: int, length: int, *pieces: int) -> None:
        """Write, and compare the counters."""
        self.number += 1
        data = tagged(self.disk.id, offset, length, self.number)
        await write(self.disk, offset, data)
        self.content[offset : offset + length] = data
        self.check([WRITE | piece for piece in pieces], f"write {offset}+{length}")

    async def read(self, offset: int, length: int, *pieces: int) -> None:
        """Read, compare with what the disk holds, and compare the counters."""
        found = await read(self.disk, offset, length)
        assert found == self.content[offset : offset + length], f"read {offset}+{length}"
        self.check(list(pieces), f"read {offset}+{length}")

    def check(self, pieces: list[int], what: str) -> None:
        """`pieces` were counted since the last look, and nothing else."""
        self.counted.update(pieces)
        shown = self.cache.stats.rows()
        wanted = tuple(self.counted[index] for index in range(NR_COUNTERS))
        assert shown == wanted, what


@pytest.mark.parametrize("nowait", [True, False], ids=["page cache", "from the disk"])
async def test_scripted_sequence(autojump_clock: trio.testing.MockClock, nowait: bool) -> None:
    rig = Rig(nowait=nowait)
    base = tagged(1, 0, MIB, 99)
    rig.add_backing(1, base)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        do = Script(cache, disk, bytearray(base))
        assert cache.stats.rows() == (0,) * NR_COUNTERS

        # nothing is cached
        await do.read(0, LINE, FULLSIZE)
        await do.read(SECTOR, SECTOR, 0)
        await do.read(3 * LINE - SECTOR, LINE, 0, 0)
        await do.read(LINE - SECTOR, 2 * LINE + 2 * SECTOR, 0, FULLSIZE, FULLSIZE, 0)

        # whole lines: missed, then hit in RAM
        await do.write(0, LINE, FULLSIZE)
        await do.write(0, LINE, IN_RAM | FULLSIZE)
        await do.read(0, LINE, IN_RAM | FULLSIZE)
        await do.read(2 * SECTOR, SECTOR, IN_RAM)
        await do.write(3 * SECTOR, 2 * SECTOR, IN_RAM)
        await do.read(0, LINE, IN_RAM | FULLSIZE)

        # parts of a line: missed, then hit in RAM, and read together with the backing
        await do.write(5 * LINE + SECTOR, SECTOR, 0)
        await do.read(5 * LINE, LINE, IN_RAM | FULLSIZE)
        await do.read(5 * LINE + SECTOR, SECTOR, IN_RAM)
        await do.read(5 * LINE + 4 * SECTOR, SECTOR, IN_RAM)
        await do.write(5 * LINE + 6 * SECTOR, 2 * SECTOR, IN_RAM)
        await do.write(5 * LINE, LINE, IN_RAM | FULLSIZE)

        # one request, several pieces of several kinds
        await do.write(4 * LINE + 7 * SECTOR, LINE + 2 * SECTOR, 0, IN_RAM | FULLSIZE, 0)
        await do.read(4 * LINE, 4 * LINE, *[IN_RAM | FULLSIZE] * 3, FULLSIZE)
        await do.write(10 * LINE, 20 * LINE, *[FULLSIZE] * 20)
        await do.write(28 * LINE, 4 * LINE, *[IN_RAM | FULLSIZE] * 2, *[FULLSIZE] * 2)
        await do.read(9 * LINE, 24 * LINE, FULLSIZE, *[IN_RAM | FULLSIZE] * 22, FULLSIZE)

        # not aligned to sectors: the piece counts once, as a part
        await do.write(40 * LINE + 100, 50, 0)
        await do.write(40 * LINE + SECTOR + 20, LINE, IN_RAM, 0)
        await do.read(40 * LINE + 1, 2 * LINE - 2, IN_RAM, IN_RAM)

        # sealed: still a hit, not on the buffer any more, though the segment stays open
        await cache.flush_current_buffer()
        do.check([], "flush_current_buffer")
        segment_id = cache.current_segment_id
        await do.read(0, LINE, HIT | FULLSIZE)
        await do.read(4 * LINE, SECTOR, HIT)
        await do.read(4 * LINE, LINE, HIT | FULLSIZE)
        await do.read(10 * LINE, 22 * LINE, *[HIT | FULLSIZE] * 22)
        await do.write(0, LINE, HIT | FULLSIZE)
        await do.write(0, LINE, IN_RAM | FULLSIZE)
        await do.write(4 * LINE + 2 * SECTOR, SECTOR, HIT)
        await do.read(4 * LINE, LINE, IN_RAM | FULLSIZE)
        await do.write(9 * LINE, 3 * LINE, FULLSIZE, HIT | FULLSIZE, HIT | FULLSIZE)
        await do.write(12 * LINE + SECTOR, 100, HIT)
        assert cache.current_segment_id == segment_id

        # on the image only: the segment is closed and its buffer given back
        cache.close_segment()
        await cache.flush_current_buffer()
        await do.read(0, 2 * LINE, HIT | FULLSIZE, FULLSIZE)
        await do.read(4 * LINE, LINE, HIT | FULLSIZE)
        await do.read(4 * LINE + 7 * SECTOR, SECTOR, HIT)
        await do.write(4 * LINE + 3 * SECTOR, SECTOR, HIT)
        await do.read(4 * LINE, LINE, IN_RAM | FULLSIZE)
        await do.write(15 * LINE, LINE, HIT | FULLSIZE)
        await do.write(16 * LINE + 1, 1, HIT)

        # migrated: clean, and still there
        await cache.drop_caches()
        do.check([], "drop_caches")
        assert cache.nr_dirty_caches == 0
        await do.read(0, LINE, HIT | FULLSIZE)
        await do.read(4 * LINE, LINE, HIT | FULLSIZE)
        await do.read(4 * LINE + 2 * SECTOR, 3 * SECTOR, HIT)
        await do.write(4 * LINE + 2 * SECTOR, SECTOR, HIT)
        await do.read(4 * LINE, LINE, IN_RAM | FULLSIZE)
        await do.write(15 * LINE, LINE, HIT | FULLSIZE)
        await do.read(1 * LINE, LINE, FULLSIZE)

        # a flush of the disk, and the things one does to a cache, count nothing
        await disk.flush()
        await cache.commit_super_block()
        do.check([], "management")
        await do.read(0, MIB, *whole_disk(cache, disk))
        # a line in the open record is always a hit, so four of the sixteen can never move; the script moved all others
        assert set(do.counted) == {key for key in range(NR_COUNTERS) if not key & ON_BUFFER or key & HIT}
        cache.stats.clear()
        do.counted.clear()
        do.check([], "clear_stat")
        await do.read(0, LINE, HIT | FULLSIZE)


def whole_disk(cache: Cache, disk: Device) -> list[int]:
    """How a read of the whole disk counts when nothing is in the open record."""
    return [FULLSIZE | (HIT if disk.table.index[line] else 0) for line in range(disk.nr_lines)]


async def test_the_last_line_of_an_odd_disk(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: 2 * LINE + 3 * SECTOR}) as manager:
        disk = manager.devices[1]
        do = Script(manager.caches[1], disk, bytearray(disk.size))
        await do.read(0, disk.size, FULLSIZE, FULLSIZE, 0)
        await do.write(2 * LINE, 3 * SECTOR, 0)
        await do.write(LINE, LINE + 3 * SECTOR, FULLSIZE, IN_RAM)
        await do.read(2 * LINE, LINE, IN_RAM)
        await do.read(disk.size, LINE)


async def test_disks_of_a_cache_count_together(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB}) as manager:
        await manager.message("create 3 /disk3.img 1M")
        cache, (first, second, bare) = manager.caches[1], manager.devices.values()
        for disk in (first, second, bare):
            await write(disk, 0, tagged(disk.id, 0, LINE, 1))
            assert await read(disk, 0, LINE) == tagged(disk.id, 0, LINE, 1)
        wanted = Counter({WRITE | FULLSIZE: 2, IN_RAM | FULLSIZE: 2})
        assert cache.stats.rows() == tuple(wanted[index] for index in range(NR_COUNTERS))


async def test_refused_requests_do_not_count(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        with pytest.raises(NoSpace, match="past the end of disk 1"):
            await write(disk, MIB, bytes(LINE))
        assert await read(disk, MIB, LINE) == b""
        assert manager.caches[1].stats.rows() == (0,) * NR_COUNTERS


async def test_a_part_that_touches_every_sector_is_a_part(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        do = Script(manager.caches[1], disk, bytearray(MIB))
        await do.write(120, LINE - 120, 0)
        await do.write(1, LINE - 2, IN_RAM)
        await do.read(1, LINE - 2, IN_RAM)
