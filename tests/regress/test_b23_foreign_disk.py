# SPDX-License-Identifier: GPL-2.0-or-later
"""B23: dm-lc knew a disk by a small number only, and wrote old data to whatever disk had that number; lcfs knows it by
UUID, size and a stamp, and replays nothing onto a disk that is another."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.engine import CacheSpec, DeviceSpec, MountSpec, WrongDisk
from lcfs.testing import Medium, SparseImage, keep_all, lose_all
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, on_backing, one_cache, recovered, write


async def dirty_image() -> Rig:
    """Three dirty lines of disk 1, on the image only."""
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        await write(manager.devices[1], 0, lines(1, 0, 3, 1))
        await manager.devices[1].flush()
        rig = rig.crash(lose_all)
    return rig


async def put_another(rig: Rig, *, size: int) -> None:
    """In the place of disk 1's backing there is one that is disk 1 of another lcfs."""
    other = Rig()
    async with other.mounted({1: size}) as manager:
        await write(manager.devices[1], 0, lines(1, 0, 1, 7))
        await manager.message("detach 1")
    rig.storage.media[backing(1)] = other.medium(backing(1)).crash(keep_all)


@pytest.mark.parametrize("size", [MIB, 2 * MIB, MIB // 2])
async def test_another_file_at_the_same_path(autojump_clock: trio.testing.MockClock, size: int) -> None:
    rig = await dirty_image()
    original = rig.medium(backing(1))
    await put_another(rig, size=size)
    before = rig.medium(backing(1)).live.copy()
    async with rig.mounted() as manager:
        disk = manager.devices[1]
        assert (disk.state.split()[0], disk.nr_dirty_caches) == ("missing", 3)
        assert not disk.present
    assert rig.medium(backing(1)).live == before
    with pytest.raises(WrongDisk):
        async with rig.mounted({1: MIB}):
            pass
    assert rig.medium(backing(1)).live == before
    rig.storage.media[backing(1)] = original
    assert (await recovered(rig))[1][: 3 * LINE] == lines(1, 0, 3, 1)


async def test_a_backing_that_shrank_without_a_label(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.storage.media[backing(1)] = Medium(SparseImage(MIB), labels=False)
    async with rig.mounted({1: MIB}) as manager:
        await write(manager.devices[1], 0, lines(1, 0, 3, 1))
        await manager.devices[1].flush()
        rig = rig.crash(lose_all)
    rig.medium(backing(1)).resize(MIB // 2)
    async with rig.mounted() as manager:
        assert (manager.devices[1].state.split()[0], manager.devices[1].nr_dirty_caches) == ("missing", 3)
    assert on_backing(rig, 1) == bytes(MIB // 2)


async def test_a_backing_used_elsewhere_since(autojump_clock: trio.testing.MockClock) -> None:
    rig = await dirty_image()
    elsewhere = MountSpec((CacheSpec("/other.img"),), (DeviceSpec(backing(1), id=9),), cache_size=4 * MIB)
    async with rig.mounted(elsewhere) as manager:
        await write(manager.devices[9], 0, lines(1, 0, 1, 8))
        await manager.message("detach 9")
    async with rig.mounted() as manager:
        assert (manager.devices[1].state.split()[0], manager.devices[1].nr_dirty_caches) == ("missing", 3)
    assert on_backing(rig, 1)[: 3 * LINE] == lines(1, 0, 1, 8) + bytes(2 * LINE)


async def test_an_id_that_is_used_again(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        await write(manager.devices[1], 0, lines(1, 0, 8, 1))
        await manager.devices[1].flush()
        await manager.message("remove 1")
        assert manager.caches[1].last_migrated_segment_id == 0, "the old lines are still in the log"
        await manager.message("create 1 /new.img 1M cache=1")
        await write(manager.devices[1], 4 * LINE, lines(1, 4, 1, 2))
        await manager.devices[1].flush()
        rig = rig.crash(lose_all)
    async with rig.mounted() as manager:
        assert manager.devices[1].path == "/new.img"
        assert manager.devices[1].nr_dirty_caches == manager.caches[1].ring.recount(1) == 1
        await manager.caches[1].drop_caches()
    assert rig.medium("/new.img").live.read(0, MIB) == bytes(4 * LINE) + lines(1, 4, 1, 2) + bytes(MIB - 5 * LINE)
    assert on_backing(rig, 1)[: 8 * LINE] == lines(1, 0, 8, 1)


async def test_a_known_disk_under_another_id(autojump_clock: trio.testing.MockClock) -> None:
    rig = await dirty_image()
    with pytest.raises(WrongDisk, match=f"{backing(1)} is disk 1 in this cache, not 2"):
        async with rig.mounted(MountSpec((CacheSpec(IMAGE),), (DeviceSpec(backing(1), id=2),))):
            pass
    with pytest.raises(WrongDisk, match=f"disk 1 is {backing(1)} in this cache"):
        async with rig.mounted(MountSpec((CacheSpec(IMAGE),), (DeviceSpec("/x.img", id=1, size=MIB),))):
            pass
    assert not rig.storage.exists("/x.img")
    with pytest.raises(WrongDisk, match="disk 1 has 1048576 bytes in this cache, not 524288"):
        async with rig.mounted(one_cache({1: MIB // 2})):
            pass
