# SPDX-License-Identifier: GPL-2.0-or-later
"""B07: dm-lc wrote partial lines back and marked them clean, and flushed only disks with other dirty data before it moved
the pointer; lcfs flushes every backing it wrote to before a line counts as clean and the tail moves."""

from __future__ import annotations

import trio.testing

from lcfs.testing import Operation, lose_all
from tests.regress.support import IMAGE, LINE, MIB, SECTOR, Rig, backing, on_backing, read_all, recovered, sectors, write


async def test_what_the_tail_gives_up_is_durable_on_the_backing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB, 3: MIB}) as manager:
        cache, disks = manager.caches[1], manager.devices
        for disk in disks.values():
            # parts of lines only, one of them twice, so that its first part is carried along
            await write(disk, LINE + 2 * SECTOR, sectors(disk.id, 10, 3, 1))
            await disk.flush()
            await write(disk, LINE + 4 * SECTOR, sectors(disk.id, 12, 1, 2))
        wanted = {number: await read_all(disk) for number, disk in disks.items()}
        began = rig.log.tick()
        await cache.drop_caches()
        assert cache.last_migrated_segment_id == cache.last_flushed_segment_id == 1
        for number, content in wanted.items():
            durable = rig.medium(backing(number)).durable
            assert durable.read(0, durable.size) == content
        flushed = {c.store: c.ended or 0 for c in rig.log.of(Operation.FLUSH) if c.began > began and c.store != IMAGE}
        commit = rig.log.of(Operation.WRITE, IMAGE)[-1]
        assert flushed.keys() == {backing(number) for number in wanted}
        assert max(flushed.values()) < commit.began
        after = rig.crash(lose_all)
    assert await recovered(after) == wanted
    assert on_backing(after, 3) == wanted[3]
