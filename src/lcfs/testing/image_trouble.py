# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of the crash explorer in which the cache image fails: cannot be read, written, grown or synced for a while."""

from __future__ import annotations

import errno

import trio

from lcfs.engine.cache import Cache
from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE, SECTOR, SUPERBLOCK_AREA
from lcfs.testing.fault import Effect, Fault, Operation
from lcfs.testing.model import Violation
from lcfs.testing.trouble import PATIENCE, attempt
from lcfs.testing.world import World

SHORT_OF_PATIENCE = 25.0
"""Seconds for which it cannot be read: less than it takes until lines are given up (engine/unreadable.py)."""


def _cache_of_disk_1(world: World) -> Cache | None:
    return world.device(1).cache if world.there(1) else None


async def unreadable(world: World) -> None:
    """Nothing can be read while lines are to be migrated and writers need room: all of them stay, and are there later."""
    cache = _cache_of_disk_1(world)
    if cache is None:
        return
    await world.write(1, 0, 3 * LINE)
    mend = world.break_store(cache.path, Fault(Operation.READ, times=None))
    with trio.move_on_after(SHORT_OF_PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, cache.drop_caches)
            for line in range(4):
                await attempt(world.write, 2 if world.there(2) else 1, 2 * line * LINE, LINE)
                await attempt(world.write, 1, line * LINE + SECTOR, SECTOR)
                await attempt(world.barrier, 1)
    mend()
    await trio.sleep(PATIENCE)
    await cache.drop_caches()
    await world.settle()


async def log_writes_fail_twice(world: World) -> None:
    """Half of a record gets to the image, twice; the third attempt is the last one."""
    cache = _cache_of_disk_1(world)
    if cache is None:
        return
    mend = world.break_store(cache.path, Fault(Operation.WRITE, Effect.SHORT, times=2, start=SUPERBLOCK_AREA))
    await world.write(1, LINE, 2 * LINE)
    await world.barrier(1)
    mend()


async def no_space(world: World) -> None:
    """The image cannot grow for a while: barriers say so, and then it goes on by itself."""
    cache = _cache_of_disk_1(world)
    if cache is None:
        return
    mend = world.break_store(cache.path, Fault(Operation.WRITE, Effect.SHORT, errno.ENOSPC, times=None))
    for line in range(5):
        with trio.move_on_after(PATIENCE):
            await attempt(world.write, 1, 2 * line * LINE, LINE + SECTOR)
            await attempt(world.barrier, 1)
    await attempt(cache.commit_super_block)
    mend()
    await trio.sleep(PATIENCE)
    await world.barrier(1)
    await cache.commit_super_block()
    await world.settle()


async def cannot_sync(world: World) -> None:
    """A flush fails: its barrier fails, and every one behind it, until the next mount (B20)."""
    cache = _cache_of_disk_1(world)
    if cache is None:
        return
    mend = world.break_store(cache.path, Fault(Operation.FLUSH))
    await attempt(world.write, 1, LINE, LINE)
    for _ in range(2):
        try:
            await world.barrier(1)
        except Failed:
            await attempt(world.write, 1, 2 * LINE, 2 * SECTOR)
        else:
            raise Violation("R1", 1, 0, "a barrier succeeds, though a flush of its cache failed")
    await world.read(1, 0, world.model.sizes[1])
    mend()
    await world.kill_and_start()
