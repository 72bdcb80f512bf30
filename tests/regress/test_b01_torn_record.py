# SPDX-License-Identifier: GPL-2.0-or-later
"""B01: dm-lc took a torn segment for a whole one, its data having no checksum; lcfs drops a record that is torn
anywhere."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import trio
import trio.testing

from lcfs.testing import Effect, Operation, Survival, UnsyncedWrite, keep_all
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, read_all, recovered, write

NR_LINES = 8
NR_SECTORS = (1 + NR_LINES) * 8


def tears() -> list[int]:
    """Masks of sectors that survive: in order, in reverse order, whole blocks and single sectors at random."""
    every = (1 << NR_SECTORS) - 1
    rng = random.Random(1)
    masks = [(1 << count) - 1 for count in range(NR_SECTORS + 1)]
    masks += [every & ~((1 << count) - 1) for count in range(1, NR_SECTORS)]
    masks += [sum(0xFF << 8 * block for block in range(1 + NR_LINES) if rng.random() < 0.7) for _ in range(40)]
    masks += [every & ~(1 << rng.randrange(NR_SECTORS)) for _ in range(40)]
    return masks


def survives(mask: int, writes: Sequence[UnsyncedWrite]) -> Survival:
    """Of the only unsynced write the sectors of `mask`."""
    assert len(writes) == 1
    return [mask]


async def test_a_torn_record_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    old, new = lines(1, 0, NR_LINES, 1), lines(1, 0, NR_LINES, 2)
    rest = bytes(MIB - len(old))
    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        disk = manager.devices[1]
        await write(disk, 0, old)
        await disk.flush()
        rig.fault(IMAGE, Operation.FLUSH, Effect.HANG)
        await write(disk, 0, new)
        nursery.start_soon(disk.flush)
        await trio.testing.wait_all_tasks_blocked()

        (record,) = rig.medium(IMAGE).unsynced.writes
        assert len(record.data) == (1 + NR_LINES) * LINE
        whole = 0
        for mask in tears():
            after = rig.crash({IMAGE: functools.partial(survives, mask), backing(1): keep_all})
            complete = after.medium(IMAGE).live.read(record.offset, len(record.data)) == record.data
            whole += complete
            assert await recovered(after) == {1: (new if complete else old) + rest}, f"sectors that survived: {mask:b}"
        assert 1 <= whole < 20
        assert await read_all(disk) == new + rest
        nursery.cancel_scope.cancel()
