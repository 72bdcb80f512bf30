# SPDX-License-Identifier: GPL-2.0-or-later
"""B25: dm-lc's count of dirty lines began at 0 with each table reload, so that a detach ended with dirty data behind or
never ended; in lcfs the cache counts, a recovery counts anew, and the number is always that of a recount."""

from __future__ import annotations

import random

import trio.testing

from lcfs.engine import Manager
from lcfs.testing import lose_all
from tests.regress.support import LINE, MIB, SECTOR, Rig, lines, on_backing, read_all, sectors, write


def check_counts(manager: Manager) -> None:
    cache = manager.caches[1]
    for number, disk in manager.devices.items():
        if disk.cache_id:
            assert disk.nr_dirty_caches == cache.ring.recount(number)
        else:
            assert disk.nr_dirty_caches == 0
    assert cache.nr_dirty_caches == sum(disk.nr_dirty_caches for disk in manager.devices.values())


async def test_counts_after_recovery_and_attach(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB}) as manager:
        first, second = manager.devices.values()
        await write(first, 0, lines(1, 0, 20, 1))
        await write(first, 5 * LINE, lines(1, 5, 20, 2))
        await write(first, 30 * LINE, sectors(1, 240, 3, 3))
        await write(second, 2 * LINE + SECTOR, sectors(2, 17, 1, 3))
        assert (first.nr_dirty_caches, second.nr_dirty_caches) == (26, 1)
        check_counts(manager)
        await first.flush()
        rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        first, second = manager.devices.values()
        assert (first.nr_dirty_caches, second.nr_dirty_caches) == (26, 1)
        check_counts(manager)
        await manager.message("detach 1")
        assert (first.nr_dirty_caches, second.nr_dirty_caches) == (0, 1)
        check_counts(manager)
        content = await read_all(first)
        assert on_backing(rig, 1) == content
        assert content[: 25 * LINE] == lines(1, 0, 5, 1) + lines(1, 5, 20, 2)
        await manager.message("attach 1 1")
        assert first.nr_dirty_caches == 0
        await write(first, 7 * LINE, lines(1, 7, 2, 4))
        assert first.nr_dirty_caches == 2
        check_counts(manager)
        await manager.message("detach 1")
        assert first.nr_dirty_caches == 0
    assert on_backing(rig, 1)[7 * LINE : 9 * LINE] == lines(1, 7, 2, 4)


async def test_counts_through_everything(autojump_clock: trio.testing.MockClock) -> None:
    rng = random.Random(25)
    rig = Rig()
    await rig.format(6, 16)
    for _ in range(4):
        async with rig.mounted({1: MIB, 2: MIB}) as manager:
            check_counts(manager)
            for step in range(150):
                disk = manager.devices[rng.choice((1, 2))]
                at, count = rng.randrange(256), rng.randrange(1, 12)
                await write(disk, at * SECTOR, sectors(disk.id, at, count, step))
                if step % 37 == 36:
                    await manager.message(f"detach {disk.id}" if disk.cache_id else f"attach {disk.id} 1")
                if step % 20 == 19:
                    await manager.caches[1].drop_caches()
                    assert manager.caches[1].nr_dirty_caches == 0
                if step % 7 == 6:
                    await disk.flush()
                check_counts(manager)
            rig = rig.crash(lose_all)
