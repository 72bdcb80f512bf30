# SPDX-License-Identifier: GPL-2.0-or-later
"""B22: after a detach dm-lc's old segments stayed alive, and a later resume wrote them over what had gone to the backing
directly; lcfs notes durably since when a disk is attached, and what the log holds from before is dead."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.engine import Manager
from lcfs.testing import lose_all
from tests.regress.support import IMAGE, MIB, Rig, lines, on_backing, recovered, write


async def write_detach_write(manager: Manager) -> None:
    """Version 1 through the cache, then version 2 past it. The log still holds version 1."""
    disk = manager.devices[1]
    await write(disk, 0, lines(1, 0, 8, 1))
    await disk.flush()
    await manager.message("detach 1")
    assert manager.caches[1].last_migrated_segment_id == 0, "the segment with version 1 is still in the log"
    await write(disk, 0, lines(1, 0, 8, 2))
    await disk.flush()


@pytest.mark.parametrize("attach_before_crash", [True, False])
@pytest.mark.parametrize("crash", [True, False])
async def test_what_went_past_the_cache_stays(
    autojump_clock: trio.testing.MockClock, crash: bool, attach_before_crash: bool
) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        await write_detach_write(manager)
        if attach_before_crash:
            await manager.message("attach 1 1")
        if crash:
            rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        assert disk.nr_dirty_caches == cache.ring.recount(1) == 0
        if not attach_before_crash:
            await manager.message("attach 1 1")
        await cache.drop_caches()
    wanted = lines(1, 0, 8, 2).ljust(MIB, b"\0")
    assert on_backing(rig, 1) == wanted
    assert await recovered(rig) == {1: wanted}


async def test_free_and_resume(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        await write_detach_write(manager)
        await manager.message("switch_to 1")
        await manager.message("free_cache")
        await manager.message("switch_to 1")
        await manager.message(f"resume_cache {IMAGE}")
        await manager.message("attach 1 1")
        await manager.caches[1].drop_caches()
        assert on_backing(rig, 1) == lines(1, 0, 8, 2).ljust(MIB, b"\0")
