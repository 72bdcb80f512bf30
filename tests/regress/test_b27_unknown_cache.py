# SPDX-License-Identifier: GPL-2.0-or-later
"""B27: a dm-lc disk with an unknown cache id, or with too few words, was made of freed memory and called a success; lcfs
says ENOENT or EINVAL, and nothing was created."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from lcfs.engine import CacheSpec, DeviceSpec, LcfsError, MountSpec, NoSuchThing
from tests.regress.support import IMAGE, MIB, Rig, backing

WRONG = {
    "create 2 /new.img 1M cache=9": errno.ENOENT,
    "attach 1 9": errno.ENOENT,
    "attach 9 1": errno.ENOENT,
    "detach 9": errno.ENOENT,
    "remove 9": errno.ENOENT,
    "suspend 9": errno.ENOENT,
    "resume 9": errno.ENOENT,
    "create": errno.EINVAL,
    "create 2": errno.EINVAL,
    "create 2 /new.img 1M cache=": errno.EINVAL,
    "create 2 /new.img 1M cache": errno.EINVAL,
    "create 2 /new.img 1M cache=1 cache=1": errno.EINVAL,
    "create 2 /new.img 1M name=x cache=1 more": errno.EINVAL,
    "create 2 new.img 1M": errno.EINVAL,
    "create 2 /new.img 1000": errno.EINVAL,
    "create 2 '/new.img 1M": errno.EINVAL,
    "attach 1": errno.EINVAL,
    "attach 1 1 1": errno.EINVAL,
    "detach": errno.EINVAL,
    "suspend 1 quickly": errno.EINVAL,
    "mkfs 1": errno.EINVAL,
    "": errno.EINVAL,
    f"create 1 {backing(3)} 1M": errno.EEXIST,
    f"create 2 {backing(1)}": errno.EEXIST,
    f"create 2 {IMAGE}": errno.EEXIST,
    "attach 1 1": errno.EBUSY,
}


async def test_wrong_words_change_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk, known = manager.devices[1], set(rig.storage.media)
        for line, number in WRONG.items():
            with pytest.raises(LcfsError) as refusal:
                await manager.message(line)
            assert refusal.value.errno == number, f"{line}: {refusal.value}"
            assert (manager.devices, disk.cache_id, disk.suspended) == ({1: disk}, 1, False)
            assert set(rig.storage.media) == known
        await manager.message("create 2 /new.img 1M cache=1")
        assert manager.devices[2].cache_id == 1


async def test_a_mount_with_an_unknown_cache_creates_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    spec = MountSpec((CacheSpec(IMAGE, id=1),), (DeviceSpec(backing(1), size=MIB, cache=2),), cache_size=4 * MIB)
    with pytest.raises(NoSuchThing, match="cache 2, which is not mounted"):
        async with rig.mounted(spec):
            pass
    assert not rig.storage.media
