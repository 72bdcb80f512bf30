# SPDX-License-Identifier: GPL-2.0-or-later
"""B30: dm-lc asked nothing of a cache device: too small divided by zero, the same one could be resumed twice and a live
one formatted; lcfs wants 2 MiB, a valid superblock and the lock, and refuses without a change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio.testing

from lcfs.engine import (
    AlreadyThere,
    CacheSpec,
    DeviceSpec,
    FileStorage,
    InUse,
    Invalid,
    LcfsError,
    MountSpec,
    NotACacheImage,
    Unsuitable,
    open_manager,
)
from lcfs.testing import Medium, SparseImage
from tests.regress.support import IMAGE, LINE, MIB, Rig, lines, read, write


@pytest.mark.parametrize("content", [b"", b"precious", os.urandom(MIB)], ids=["zeros", "text", "noise"])
@pytest.mark.parametrize("size", [512, MIB, 2 * MIB - 1, 8 * MIB])
async def test_what_is_no_image_is_not_mounted(autojump_clock: trio.testing.MockClock, size: int, content: bytes) -> None:
    rig = Rig()
    rig.storage.media[IMAGE] = Medium(SparseImage.of(content[:size], size))
    before = rig.medium(IMAGE).live.copy()
    with pytest.raises(NotACacheImage, match=f"{IMAGE} is not an lcfs cache image and is left as it is"):
        async with rig.mounted({1: MIB}):
            pass
    assert rig.medium(IMAGE).live == before
    assert list(rig.storage.media) == [IMAGE]


async def test_what_cannot_be_formatted(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.storage.media["/small.img"] = Medium(SparseImage(2 * MIB - 1))
    rig.storage.media["/data.img"] = Medium(SparseImage.of(b"precious", 8 * MIB))
    rig.storage.media["/blank.img"] = Medium(SparseImage(2 * MIB))
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        for path, number in {"/small.img": errno.EINVAL, "/data.img": errno.EEXIST, IMAGE: errno.EBUSY}.items():
            before = rig.medium(path).live.copy()
            with pytest.raises(LcfsError) as refusal:
                await manager.message(f"format_cache_device {path}")
            assert (refusal.value.errno, path in str(refusal.value) or number == errno.EINVAL) == (number, True)
            assert rig.medium(path).live == before
        await manager.message("switch_to 2")
        with pytest.raises(InUse):
            await manager.message(f"resume_cache {IMAGE}")
        assert await read(disk, 0, LINE) == lines(1, 0, 1, 1)
        # the smallest cache there is: one segment
        await manager.message("format_cache_device /blank.img")
        await manager.message("resume_cache /blank.img")
        assert (manager.caches[2].nr_segments, manager.caches[2].nr_caches) == (1, 255)


async def test_one_segment_is_enough_to_work(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    with pytest.raises(Invalid, match="give 2 MiB to 16 TiB"):
        async with rig.mounted(MountSpec((CacheSpec(IMAGE, size=2 * MIB - 1),))):
            pass
    assert not rig.storage.media
    spec = MountSpec((CacheSpec(IMAGE, size=2 * MIB),), (DeviceSpec("/d.img", size=4 * MIB),))
    async with rig.mounted(spec) as manager:
        disk = manager.devices[1]
        for line in range(1000):
            await write(disk, line * LINE, lines(1, line, 1, 1))
        await disk.flush()
        assert await read(disk, 0, 1000 * LINE) == lines(1, 0, 1000, 1)


async def test_one_file_is_opened_once(tmp_path: Path) -> None:
    image, link = tmp_path / "ssd.img", tmp_path / "same.img"
    spec = MountSpec((CacheSpec(str(image), size=4 * MIB),), (DeviceSpec(str(tmp_path / "d.img"), size=MIB),))
    async with open_manager(spec, FileStorage()) as manager:
        os.link(image, link)
        (tmp_path / "soft.img").symlink_to(image)
        before = image.read_bytes()
        for path in (image, link, tmp_path / "soft.img"):
            with pytest.raises(InUse):
                async with open_manager(MountSpec((CacheSpec(str(path)),)), FileStorage()):
                    pass
            with pytest.raises(InUse):
                await manager.message(f"format_cache_device {path}")
        with pytest.raises(AlreadyThere):
            await manager.message(f"create 2 {link} cache=1")
        assert image.read_bytes() == before
    for path in (image, link, tmp_path / "soft.img"):
        with pytest.raises((AlreadyThere, Invalid)):
            async with open_manager(MountSpec((CacheSpec(str(image)), CacheSpec(str(path)))), FileStorage()):
                pass
        with pytest.raises((AlreadyThere, Invalid)):
            async with open_manager(MountSpec((CacheSpec(str(image)),), (DeviceSpec(str(path)),)), FileStorage()):
                pass


async def test_a_disk_is_not_made_of_an_empty_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.touch()
    with pytest.raises(Unsuitable):
        async with open_manager(MountSpec((CacheSpec(str(empty)),)), FileStorage()):
            pass
    with pytest.raises(Unsuitable):
        cache = CacheSpec(str(tmp_path / "s.img"), size=4 * MIB)
        async with open_manager(MountSpec((cache,), (DeviceSpec(str(empty)),)), FileStorage()):
            pass
    assert sorted(os.listdir(tmp_path)) == ["empty.img"]
    assert empty.stat().st_size == 0
