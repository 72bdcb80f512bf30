# SPDX-License-Identifier: GPL-2.0-or-later
"""B29: dm-lc kept a disk suspended while its lines were written back, for ever if migration was not allowed; lcfs drains
online, allowed or not, and holds requests only for the last few lines."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine.request_cost import RequestCost
from tests.regress.support import LINE, MIB, Rig, backing, lines, on_backing, one_cache, read, read_all, write

PER_WRITE = 0.01
DIRTY = 1000


async def test_the_disk_is_usable_while_it_is_drained(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestCost, "price", 0)  # one write per line, so that it takes long
    rig = Rig()
    latencies: list[float] = []
    async with rig.mounted(one_cache({1: 16 * MIB}, 16 * MIB)) as manager, trio.open_nursery() as nursery:
        disk = manager.devices[1]
        for line in range(0, 2 * DIRTY, 2):
            await write(disk, line * LINE, lines(1, line, 1, 1))
        rig.delays[backing(1)].writes = PER_WRITE

        async def keep_using() -> None:
            number = 2
            while True:
                began = trio.current_time()
                await write(disk, number % 50 * LINE, lines(1, number % 50, 1, number))
                assert await read(disk, number % 50 * LINE, LINE) == lines(1, number % 50, 1, number)
                await disk.flush()
                latencies.append(trio.current_time() - began)
                number += 1
                await trio.sleep(0.1)

        nursery.start_soon(keep_using)
        began = trio.current_time()
        await manager.message("detach 1")
        took = trio.current_time() - began
        assert took > 0.99 * DIRTY * PER_WRITE
        assert (disk.cache_id, disk.nr_dirty_caches, manager.caches[1].tunables["allow_migrate"]) == (0, 0, 0)
        assert len(latencies) > 80
        assert sorted(latencies)[len(latencies) * 9 // 10] < PER_WRITE
        assert max(latencies) < took / 3
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert on_backing(rig, 1) == await read_all(disk)


async def test_a_clean_disk_is_detached_at_once(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        await manager.caches[1].drop_caches()
        began = trio.current_time()
        await manager.message("detach 1")
        assert (trio.current_time() - began, disk.cache_id) == (0.0, 0)
