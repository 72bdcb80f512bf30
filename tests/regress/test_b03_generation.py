# SPDX-License-Identifier: GPL-2.0-or-later
"""B03: dm-lc gave a dropped segment's id and lap to the next one, so that two torn writes could add up to a valid header;
lcfs begins a new generation at every recovery, and a record of an earlier one is not completed by a later one."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from lcfs.engine import read_superblock
from lcfs.testing import ALL, Effect, Operation, Survival, UnsyncedWrite
from tests.regress.support import IMAGE, LINE, MIB, Rig, lines, recovered, write

HEADER, FIRST, SECOND = 0xFF, 0xFF << 8, 0xFF << 16
"""Sectors of the header and of the two lines of a record."""


async def torn_write(rig: Rig, *pieces: tuple[int, bytes], kept: int) -> Rig:
    """Write lines, cut the power while they are being flushed; of their record the sectors `kept` survive."""

    def choose(writes: Sequence[UnsyncedWrite]) -> Survival:
        return [kept if write.offset >= MIB else ALL for write in writes]

    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        disk = manager.devices[1]
        rig.fault(IMAGE, Operation.FLUSH, Effect.HANG)
        for line, data in pieces:
            await write(disk, line * LINE, data)
        nursery.start_soon(disk.flush)
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.medium(IMAGE).unsynced.writes) == 1
        after = rig.crash(choose)
        nursery.cancel_scope.cancel()
    return after


async def test_two_torn_records_do_not_make_one(autojump_clock: trio.testing.MockClock) -> None:
    first, second = lines(1, 0, 1, 1), lines(1, 1, 1, 2)
    # the first record loses its second line; what is written later to its place brings just that line
    rig = await torn_write(Rig(), (0, first), (1, second), kept=HEADER | FIRST)
    rig = await torn_write(rig, (5, lines(1, 5, 1, 3)), (1, second), kept=SECOND)
    stored = rig.medium(IMAGE).live.read(MIB, 3 * LINE)
    assert stored[LINE:] == first + second
    assert await recovered(rig) == {1: bytes(MIB)}


async def test_every_recovery_begins_a_generation(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    generations = []
    for _ in range(3):
        async with rig.mounted({1: MIB}) as manager:
            await write(manager.devices[1], 0, lines(1, 0, 1, 1))
            await manager.devices[1].flush()
            rig = rig.crash(lambda writes: [ALL] * len(writes))
        store = await rig.storage.open(IMAGE)
        superblock = await read_superblock(store)
        await store.close()
        generations.append(superblock.generation)
    assert len(set(generations)) == 3
    assert generations == sorted(generations)
