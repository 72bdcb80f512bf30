# SPDX-License-Identifier: GPL-2.0-or-later
"""B10: a read that dm-lc had sent to a slot of the cache returned garbage when migration finished and gave the slot away
meanwhile; lcfs checks every line it reads from the image against its checksum and looks again where it moved."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.testing import Effect, Operation
from tests.regress.support import IMAGE, LINE, MIB, SECTOR, Rig, backing, lines, read, sectors, write

SEGMENTS, BLOCKS = 4, 8
DISK = 64 * LINE


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("partial", [False, True])
async def test_a_read_under_way_while_its_slot_is_reused(
    autojump_clock: trio.testing.MockClock, partial: bool, rewritten: bool
) -> None:
    rig = Rig()
    await rig.format(SEGMENTS, BLOCKS)
    async with rig.mounted({1: DISK}) as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        if partial:
            await write(disk, 0, sectors(1, 0, 5, 1))
            await write(disk, LINE, lines(1, 1, 2, 1))
        else:
            await write(disk, 0, lines(1, 0, 3, 1))
        old = await read(disk, 0, 3 * LINE)
        await cache.drop_caches()

        answers: list[bytes] = []

        async def reader() -> None:
            answers.append(bytes(await disk.read(0, 3 * LINE)))

        slow = rig.fault(IMAGE, Operation.READ, Effect.HANG)
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert (slow.met, answers) == (1, [])
        new = old
        if rewritten:
            await write(disk, 0, lines(1, 0, 3, 2))
            new = lines(1, 0, 3, 2)
        for line in range(10, 10 + SEGMENTS * (BLOCKS - 1)):
            await write(disk, line * LINE, lines(1, line, 1, 3))
        assert cache.current_segment_id > SEGMENTS
        assert disk.table.index[1] != cache.geometry.first_block + 2
        slow.release()
        await trio.testing.wait_all_tasks_blocked()
        (answer,) = answers
        for line in range(3):
            at = slice(line * LINE, (line + 1) * LINE)
            assert answer[at] in (old[at], new[at]), f"line {line}"
        assert await read(disk, 0, 3 * LINE) == new


async def test_a_merge_under_way_while_the_line_is_rewritten(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    below = lines(1, 0, 1, 9)
    rig.add_backing(1, below)
    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, sectors(1, 0, 5, 1))
        await disk.flush()
        cache.close_segment()
        await trio.testing.wait_all_tasks_blocked()
        answers: list[bytes] = []

        async def reader() -> None:
            answers.append(bytes(await disk.read(0, LINE)))

        slow = rig.fault(backing(1), Operation.READ, Effect.HANG)
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert (slow.met, answers) == (1, [])
        await write(disk, 0, lines(1, 0, 1, 2))
        await cache.drop_caches()
        slow.release()
        await trio.testing.wait_all_tasks_blocked()
        assert answers in ([lines(1, 0, 1, 2)], [sectors(1, 0, 5, 1) + below[5 * SECTOR :]])
