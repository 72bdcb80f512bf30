# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of the crash explorer in which something is amiss: a backing fails, hangs, lags, is missing or is another disk's;
an operation is called off, or asked for when it must be refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from lcfs.engine.errors import InUse, LcfsError, NoSpace
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing.fault import Effect, Fault, Operation
from lcfs.testing.model import Violation
from lcfs.testing.unsynced import keep_all
from lcfs.testing.world import World, disk_path

Step = Callable[[World], Awaitable[None]]

PATIENCE = 60.0
"""Seconds of the mock clock that writers of a full cache get."""


async def _drop_caches(world: World) -> None:
    for cache in list(world.manager.caches.values()):
        await cache.drop_caches()


def write_around(effect: Effect) -> Step:
    """The backing of disk 1 fails or hangs while disk 2 is written to."""

    async def step(world: World) -> None:
        if not world.there(2):
            return
        await world.write(1, LINE, 2 * LINE)
        mend = world.break_backing(1, effect)
        try:
            with trio.move_on_after(PATIENCE):
                for line in range(12):
                    await world.write(2, line * LINE, LINE)
        except LcfsError:
            pass  # the cache is full of lines of disk 1, which is a fair answer
        finally:
            mend()
        await trio.sleep(PATIENCE)
        await _drop_caches(world)
        world.clear_counts()  # a request that was refused may have been counted, in part

    return step


async def write_back_that_lags(world: World) -> None:
    """A write-back hangs while its line gets a newer version, and somebody wants that one written back, too."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    device = world.device(1)
    cache = world.manager.caches[device.cache_id]
    await world.write(1, 0, LINE)
    mend = world.break_backing(1, Effect.HANG, times=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.drain, device)
        await trio.sleep(1)
        # on its own: in a full ring it waits for the backing
        nursery.start_soon(world.write, 1, 0, LINE)
        await trio.sleep(1)
        nursery.start_soon(cache.drain, device)
        await trio.sleep(1)
        mend()
    await world.barrier(1)


async def detach_called_off(world: World) -> None:
    """Ctrl-C in a detach: the disk is attached as before (B28)."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    await world.write(1, 3 * LINE, LINE)
    mend = world.break_backing(1, Effect.HANG)
    change = world.model.begin_change(1, None)
    try:
        with trio.move_on_after(5) as scope:
            await world.manager.detach(1)
            change.done()
    finally:
        mend()
    if scope.cancelled_caught:
        change.called_off()
        if not world.device(1).cache_id:
            raise Violation("R9", 1, 0, "is detached, though the detach was called off")
    await world.read(1, 0, world.model.sizes[1])


async def free_in_use(world: World) -> None:
    """Freeing a cache that disks are attached to is refused (B21)."""
    for number in list(world.manager.caches):
        if number in world.caches_of().values():
            try:
                await world.manager.free_cache(number)
            except InUse:
                continue
            raise Violation("R9", 0, 0, f"cache {number} was freed, though disks are attached to it")


async def mount_without_disk_1(world: World) -> None:
    """Its dirty lines wait for it while the log goes on (B24)."""
    path = disk_path(1)
    if not world.there(1) or not world.there(2):
        return
    await world.stop()
    medium = world.storage.media.pop(path)
    await world.start()
    try:
        if world.manager.devices[1].present:
            raise Violation("R7", 1, 0, "is there, though its backing is not")
        try:
            for line in range(6):
                await world.write(2, line * LINE, LINE)
        except NoSpace:
            pass  # a ring of very small segments is full of what waits for disk 1
        await world.barrier(2)
        await world.read(2, 0, world.model.sizes[2])
    finally:
        await world.stop()
        world.storage.media[path] = medium
    await world.start()
    await world.check()


async def swap_the_backings(world: World) -> None:
    """Each disk finds the other's file in its place, as large as its own: neither may be used (B23)."""
    if not world.there(1) or not world.there(2):
        return
    media, paths = world.storage.media, (disk_path(1), disk_path(2))
    await world.write(1, 2 * LINE, SECTOR)
    await world.stop()
    before = [media[path] for path in paths]
    for path, other in zip(paths, reversed(before), strict=True):
        media[path] = stranger = other.crash(keep_all)
        stranger.resize(max(medium.size for medium in before))
    await world.start()
    try:
        for disk in (1, 2):
            if world.manager.devices[disk].present:
                raise Violation("R7", disk, 0, "is used on the backing of the other disk")
    finally:
        await world.stop()
        media.update(zip(paths, before, strict=True))
    await world.start()
    await world.check()


async def read_that_lags(world: World) -> None:
    """A read of the image hangs while its line is overwritten, migrated, and its slot taken by other lines (B10)."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    device = world.device(1)
    await world.write(1, 0, 2 * LINE)
    await world.manager.caches[device.cache_id].drop_caches()
    let_go = world.hold_a_read(device.cache_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.read, 1, 0, LINE)
        await trio.sleep(1)
        for turn in range(5):
            await world.write(1, (2 + 2 * turn) * LINE, 4 * LINE)
            await _drop_caches(world)
        let_go()
    await world.read(1, 0, 2 * LINE)


async def attempt(function: Callable[..., Awaitable[object]], *args: object) -> None:
    """Ask for something that may be refused while something is broken."""
    with suppress(LcfsError):
        await function(*args)


async def write_around_in_parts(world: World) -> None:
    """Parts of lines of both disks and barriers, side by side, while the lines of disk 1 have to be copied forward."""
    if not all(world.there(disk) and world.device(disk).cache_id for disk in (1, 2)):
        return
    await world.write(1, LINE, 2 * LINE)
    mend = world.break_backing(1, Effect.ERROR)
    with trio.move_on_after(PATIENCE):
        for turn in range(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, world.write, 2, 2 * turn * LINE + SECTOR, 2 * LINE)
                nursery.start_soon(attempt, world.write, 1, turn % 3 * LINE + 2 * SECTOR, SECTOR)
                nursery.start_soon(attempt, world.barrier, 1 + turn % 2)
                nursery.start_soon(attempt, world.write, 2, turn * LINE, LINE)
            await trio.sleep(0.3)
    mend()
    await trio.sleep(PATIENCE)
    await _drop_caches(world)
    await world.settle()


async def backing_that_cannot_sync(world: World) -> None:
    """The flush behind a write-back fails: its lines are as dirty as before (B07)."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    await world.write(1, 0, 2 * LINE)
    mend = world.break_store(disk_path(1), Fault(Operation.FLUSH, times=2))
    await attempt(_drop_caches, world)
    await world.barrier(1)
    await attempt(world.write, 1, LINE, SECTOR)
    await attempt(_drop_caches, world)
    mend()
    await trio.sleep(PATIENCE)
    await _drop_caches(world)
    await world.settle()


async def requests_called_off(world: World) -> None:
    """Writes and barriers are called off where they wait: for room, for old sectors, for a flush."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    mend = world.break_backing(1, Effect.HANG)
    for patience in (0.0, 0.002, 1.0):
        with trio.move_on_after(patience):
            await attempt(world.write, 1, 2 * LINE + SECTOR, 9 * LINE)
        with trio.move_on_after(patience):
            await attempt(world.barrier, 1)
        with trio.move_on_after(patience):
            await attempt(world.write, 1, 3 * LINE + SECTOR, LINE)
    mend()
    await trio.sleep(PATIENCE)
    await world.settle()
    await world.barrier(1)


async def drop_called_off(world: World) -> None:
    """`drop_caches` is called off while a write-back hangs, and asked for again."""
    if not world.there(1) or not world.device(1).cache_id:
        return
    cache = world.manager.caches[world.device(1).cache_id]
    await world.write(1, 0, 3 * LINE)
    mend = world.break_backing(1, Effect.HANG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, cache.drop_caches)
        await trio.sleep(1)
        cache.cancel_drop()
    with trio.move_on_after(PATIENCE):  # in a small ring a disk that hangs gets no room
        await attempt(world.write, 1, LINE, SECTOR)
    mend()
    await trio.sleep(PATIENCE)
    await cache.drop_caches()
    await world.settle()


async def suspend_and_resume(world: World) -> None:
    """Requests wait at the gate, with and without a flush before it closed."""
    if not world.there(1):
        return
    device = world.device(1)
    for flush in (True, False):
        await world.write(1, LINE, LINE)
        barrier = world.model.begin_barrier(1)
        await world.manager.suspend(device, flush=flush)
        if flush:
            barrier.done()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.write, 1, LINE, 2 * SECTOR)
            nursery.start_soon(world.barrier, 1)
            await trio.sleep(1)
            world.manager.resume(device)
