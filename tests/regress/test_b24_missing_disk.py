# SPDX-License-Identifier: GPL-2.0-or-later
"""B24: dm-lc crashed the kernel when a cache was resumed without one of its disks, or a disk was reattached during
migration; lcfs keeps the orphaned lines, counts them, and migrates them when the disk is back."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from lcfs.engine import LcfsError, Missing
from lcfs.testing import lose_all
from tests.regress.support import LINE, MIB, Rig, backing, lines, on_backing, read, read_all, write


async def test_a_cache_is_resumed_without_a_disk(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 2: MIB}) as manager:
        for number, disk in manager.devices.items():
            await write(disk, 0, lines(number, 0, 5, 1))
        await disk.flush()
        rig = rig.crash(lose_all)
    away = rig.storage.media.pop(backing(1))
    newest = lines(2, 0, 5, 1)
    for version in (2, 3):
        async with rig.mounted() as manager:
            cache, (disk, other) = manager.caches[1], manager.devices.values()
            assert (disk.present, disk.state.split()[0], disk.nr_dirty_caches) == (False, "missing", 5)
            assert backing(1) in disk.state
            with pytest.raises(Missing):
                await read(disk, 0, LINE)
            with pytest.raises(Missing):
                await write(disk, 0, lines(1, 0, 1, 2))
            # the other disk is as usable as ever
            assert await read(other, 0, 5 * LINE) == newest
            await write(other, LINE, lines(2, 1, 1, version))
            newest = lines(2, 0, 1, 1) + lines(2, 1, 1, version) + lines(2, 2, 3, 1)
            with pytest.raises(LcfsError) as refusal:
                await cache.drop_caches()
            assert refusal.value.errno == errno.ENODEV
            assert (disk.nr_dirty_caches, other.nr_dirty_caches, cache.nr_dirty_caches) == (5, 0, 5)
            for line in ("detach 1", "remove 1"):
                with pytest.raises(Missing):
                    await manager.message(line)
    rig.storage.media[backing(1)] = away
    async with rig.mounted() as manager:
        disk = manager.devices[1]
        assert (disk.state, disk.nr_dirty_caches) == ("running", 5)
        assert await read(disk, 0, 5 * LINE) == lines(1, 0, 5, 1)
        await manager.caches[1].drop_caches()
        assert manager.caches[1].nr_dirty_caches == 0
    assert on_backing(rig, 1)[: 5 * LINE] == lines(1, 0, 5, 1)


async def test_attach_and_detach_during_migration(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    await rig.format(8, 8)
    async with rig.mounted({1: MIB, 2: MIB}) as manager, trio.open_nursery() as nursery:
        cache, (moving, other) = manager.caches[1], manager.devices.values()
        await cache.set_tunable("allow_migrate", 1)
        for path in (backing(1), backing(2)):
            rig.delays[path].writes = 0.001
        last = {1: 0, 2: 0}

        async def keep_writing(number: int) -> None:
            for version in range(1, 200):
                await write(manager.devices[number], version % 40 * LINE, lines(number, version % 40, 1, version))
                last[number] = version
                await trio.sleep(0.0007)

        nursery.start_soon(keep_writing, 1)
        nursery.start_soon(keep_writing, 2)
        switches = 0
        while min(last.values()) < 199:
            await manager.message("detach 1" if moving.cache_id else "attach 1 1")
            switches += 1
            await trio.sleep(0.001)
        assert switches > 10
        newest = {line: max(v for v in range(1, 200) if v % 40 == line) for line in range(40)}
        for number, disk in ((1, moving), (2, other)):
            wanted = b"".join(lines(number, line, 1, newest[line]) for line in range(40))
            assert (await read_all(disk))[: 40 * LINE] == wanted
            assert disk.nr_dirty_caches == cache.ring.recount(number)
