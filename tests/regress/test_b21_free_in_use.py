# SPDX-License-Identifier: GPL-2.0-or-later
"""B21: dm-lc's free_cache threw away what was in RAM and asked nobody whether the cache was in use; lcfs refuses while a
disk is attached, and leaves a clean image and no lock behind."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from lcfs.engine import InUse, Invalid, read_superblock
from lcfs.testing import lose_all
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, on_backing, read, write


async def test_a_cache_in_use_is_not_freed(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB}) as manager:
        cache = manager.caches[1]
        await manager.message("switch_to 1")
        for number, disk in manager.devices.items():
            await write(disk, 0, lines(number, 0, 3, 1))
        for detached, users in enumerate(("1, 2", "2")):
            with pytest.raises(InUse, match=f"cache 1 is in use by disk {users}; detach") as refusal:
                await manager.message("free_cache")
            assert refusal.value.errno == errno.EBUSY
            assert (manager.caches, cache.state) == ({1: cache}, "running")
            await write(manager.devices[2], LINE, lines(2, 1, 1, 2))
            await manager.devices[2].flush()
            await manager.message(f"detach {detached + 1}")
        await manager.message("free_cache")
        assert (manager.caches, manager.cursor) == ({}, 0)
        assert not rig.storage.is_open(IMAGE)
        for line in ("free_cache", "clear_stat"):
            with pytest.raises(Invalid):
                await manager.message(line)
        # the disks go on without it
        assert await read(manager.devices[2], 0, 2 * LINE) == lines(2, 0, 1, 1) + lines(2, 1, 1, 2)
        rig = rig.crash(lose_all)
    store = await rig.storage.open(IMAGE)
    assert (await read_superblock(store)).clean
    await store.close()
    assert on_backing(rig, 1)[: 3 * LINE] == lines(1, 0, 3, 1)
    assert rig.medium(backing(2)).durable.read(LINE, LINE) == lines(2, 1, 1, 2)
