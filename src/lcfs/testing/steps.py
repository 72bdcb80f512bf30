# SPDX-License-Identifier: GPL-2.0-or-later
"""What the crash explorer does to a mount: short steps, combined into workloads of up to three.

The sizes suit a ring of 4 segments of 3 lines and disks of 16 lines, so that wrapping around and a full
cache take a single step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing import image_trouble, trouble
from lcfs.testing.fault import Effect
from lcfs.testing.world import World

Step = Callable[[World], Awaitable[None]]


def _write(disk: int, offset: int, length: int) -> Step:
    async def write(world: World) -> None:
        await world.write(disk, offset, length)

    return write


async def _write_end(world: World) -> None:
    await world.write(2, world.model.sizes[2] - 3 * SECTOR, 3 * SECTOR)


async def _overwrite_in_ram(world: World) -> None:
    await world.write(1, 0, LINE)
    await world.write(1, 0, LINE)
    await world.write(1, SECTOR, SECTOR)


async def _write_alternately(world: World) -> None:
    for line in range(3):
        await world.write(1, line * LINE, LINE)
        await world.write(2, line * LINE, 2 * SECTOR)


def _barrier(disk: int) -> Step:
    async def barrier(world: World) -> None:
        await world.barrier(disk)

    return barrier


async def _flush_current_buffer(world: World) -> None:
    await world.manager.caches[1].flush_current_buffer()


async def _commit_super_block(world: World) -> None:
    await world.manager.caches[1].commit_super_block()


async def _drop_caches(world: World) -> None:
    for cache in list(world.manager.caches.values()):
        await cache.drop_caches()


async def _migrate(world: World) -> None:
    for value in (1, 0):
        for cache in list(world.manager.caches.values()):
            await cache.set_tunable("force_migrate", value)
        await trio.sleep(3 * value)


async def _wait(world: World) -> None:
    await trio.sleep(1.5)


async def _scrub(world: World) -> None:
    for cache in list(world.manager.caches.values()):
        cache.start_scrub()
    await trio.lowlevel.checkpoint()
    await world.write(1, 3 * LINE, 2 * LINE)
    for cache in list(world.manager.caches.values()):
        await cache.scrub.wait()


async def _set_tunable(world: World) -> None:
    cache = world.manager.caches[1]
    await cache.set_tunable("nr_max_batched_migration", 3 - cache.tunables["nr_max_batched_migration"] % 2)


async def _rename(world: World) -> None:
    await world.manager.set_device_name(world.device(1), "renamed")


def _attach(disk: int) -> Step:
    async def attach(world: World) -> None:
        await world.attach(disk)

    return attach


def _detach(disk: int) -> Step:
    async def detach(world: World) -> None:
        await world.detach(disk)

    return detach


def _create(disk: int, cache: int | None) -> Step:
    async def create(world: World) -> None:
        await world.create(disk, cache)

    return create


def _remove(disk: int) -> Step:
    async def remove(world: World) -> None:
        await world.remove(disk)

    return remove


async def _move_to_last_cache(world: World) -> None:
    await world.detach(1)
    await world.attach(1, max(world.manager.caches))


async def _free_and_resume(world: World) -> None:
    last = max(world.manager.caches)
    users = [disk for disk, cache in world.caches_of().items() if cache == last]
    for disk in users:
        await world.detach(disk)
    if last == 1:
        return
    path = world.manager.caches[last].path
    await world.manager.free_cache(last)
    world.manager.cursor = last
    await world.manager.resume_cache(path)
    world.clear_counts()
    for disk in users:
        await world.attach(disk, last)


async def _remount(world: World) -> None:
    await world.stop()
    await world.start()
    await world.check()


async def _kill(world: World) -> None:
    await world.kill_and_start()


async def _side_by_side(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.write, 1, 5 * LINE, 2 * LINE)
        nursery.start_soon(world.write, 2, 5 * LINE, SECTOR)
        nursery.start_soon(world.barrier, 1)
        nursery.start_soon(world.write, 1, 8 * LINE, LINE)
        nursery.start_soon(world.barrier, 2)


async def _overwrite_during_migration(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.manager.caches[1].drop_caches)
        await trio.lowlevel.checkpoint()
        for line in range(4):
            await world.write(1, line * LINE, LINE)
            await trio.lowlevel.checkpoint()


async def _overwrite_during_detach(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.detach, 1)
        for line in range(4):
            await trio.lowlevel.checkpoint()
            await world.write(2, line * LINE, LINE)


STEPS: dict[str, Step] = {
    "write a sector": _write(1, 3 * SECTOR, SECTOR),
    "write two sectors": _write(1, 0, 2 * SECTOR),
    "write a line": _write(1, 0, LINE),
    "write a line of disk 2": _write(2, 0, LINE),
    "write a part of disk 2": _write(2, 2 * SECTOR, 3 * SECTOR),
    "write three lines": _write(1, LINE, 3 * LINE),
    "write more than a segment": _write(1, 0, 7 * LINE),
    "write more than the ring": _write(1, 0, 15 * LINE),
    "write unaligned": _write(1, 2 * LINE + 100, 5000),
    "write the end of disk 2": _write_end,
    "overwrite in RAM": _overwrite_in_ram,
    "write alternately": _write_alternately,
    "barrier": _barrier(1),
    "barrier of disk 2": _barrier(2),
    "flush_current_buffer": _flush_current_buffer,
    "commit_super_block": _commit_super_block,
    "drop_caches": _drop_caches,
    "migrate": _migrate,
    "wait": _wait,
    "scrub": _scrub,
    "set a tunable": _set_tunable,
    "rename": _rename,
    "attach": _attach(1),
    "attach disk 2": _attach(2),
    "detach": _detach(1),
    "detach disk 2": _detach(2),
    "create disk 3": _create(3, 1),
    "create disk 3 without a cache": _create(3, None),
    "write disk 3": _write(3, LINE, 2 * LINE),
    "barrier of disk 3": _barrier(3),
    "remove disk 2": _remove(2),
    "create disk 2 again": _create(2, 1),
    "move to the last cache": _move_to_last_cache,
    "free and resume the last cache": _free_and_resume,
    "write around a failing backing": trouble.write_around(Effect.ERROR),
    "write around a hung backing": trouble.write_around(Effect.HANG),
    "write back with a lag": trouble.write_back_that_lags,
    "detach, called off": trouble.detach_called_off,
    "free a cache in use": trouble.free_in_use,
    "mount without disk 1": trouble.mount_without_disk_1,
    "swap the backings": trouble.swap_the_backings,
    "read with a lag": trouble.read_that_lags,
    "write around a backing that fails now and then": trouble.write_around_in_parts,
    "the backing cannot sync": trouble.backing_that_cannot_sync,
    "the image cannot be read": image_trouble.unreadable,
    "writing the log fails twice": image_trouble.log_writes_fail_twice,
    "no space for the image": image_trouble.no_space,
    "the image cannot sync": image_trouble.cannot_sync,
    "requests called off": trouble.requests_called_off,
    "drop_caches, called off": trouble.drop_called_off,
    "suspend and resume": trouble.suspend_and_resume,
    "remount": _remount,
    "kill": _kill,
    "write and flush side by side": _side_by_side,
    "overwrite during migration": _overwrite_during_migration,
    "write during detach": _overwrite_during_detach,
}
"""By name; a workload is a sequence of these."""


async def _nothing(world: World) -> None:
    pass


async def _clean_data(world: World) -> None:
    await world.write(1, 0, 8 * LINE)
    await world.write(2, 0, 6 * LINE)
    await _drop_caches(world)


async def _wrapped(world: World) -> None:
    for turn in range(4):
        await world.write(1, turn * LINE, 4 * LINE)
        await world.write(2, turn * LINE, 2 * LINE + SECTOR)
        await world.barrier(1 + turn % 2)
        await _migrate(world)
    await world.write(1, 2 * SECTOR, 2 * LINE)
    await world.barrier(1)


async def _recovered(world: World) -> None:
    await world.write(1, 0, 4 * LINE)
    await world.write(2, SECTOR, 2 * SECTOR)
    await world.barrier(1)
    await world.write(1, LINE, LINE)
    await _kill(world)


async def _open_record(world: World) -> None:
    await world.detach(2)
    await world.write(1, LINE, 2 * LINE)
    await world.write(1, 0, SECTOR)


async def _full(world: World) -> None:
    await world.manager.caches[1].set_tunable("update_interval", 0)
    for line in range(4):
        await world.write(1, 2 * line * LINE, LINE)
        await world.write(2, 2 * line * LINE, SECTOR)
        await world.barrier(1)


PRELUDES: dict[str, Step] = {
    "nothing": _nothing,
    "clean data": _clean_data,
    "a wrapped ring": _wrapped,
    "a recovered log": _recovered,
    "an open record, disk 2 detached": _open_record,
    "a ring of small records": _full,
}
"""What a world has been through before the workload, without a crash."""
