# SPDX-License-Identifier: GPL-2.0-or-later
"""B26: a duplicate cache id made dm-lc lose the live cache, and several errors ended in success; in lcfs it is EEXIST,
and a cache is registered when all of it is there, or not at all."""

from __future__ import annotations

import errno
import logging

import pytest
import trio.testing

from lcfs.engine import AlreadyThere, CacheSpec, DeviceSpec, Invalid, LcfsError, MountSpec
from lcfs.testing import Effect, Fault, FaultStore, Operation
from tests.plugins.log_check import ExpectLog
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, read, write

OTHER = "/other.img"


async def rig_with_two_images() -> Rig:
    """An image that is to be mounted, with disk 1; and one that is not, with disk 2 and a dirty line."""
    rig = Rig()
    spec = MountSpec((CacheSpec(OTHER),), (DeviceSpec(backing(2), id=2, size=MIB),), cache_size=4 * MIB)
    async with rig.mounted(spec) as manager:
        await write(manager.devices[2], 0, lines(2, 0, 1, 1))
    return rig


async def test_a_used_id_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    rig = await rig_with_two_images()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, lines(1, 0, 1, 1))
        await manager.message("switch_to 1")
        with pytest.raises(AlreadyThere, match=r"cache 1 is /ssd\.img") as refusal:
            await manager.message(f"resume_cache {OTHER}")
        assert refusal.value.errno == errno.EEXIST
        for number in (0, 255, 256):
            with pytest.raises(Invalid):
                await manager.message(f"switch_to {number}")
                await manager.message(f"resume_cache {OTHER}")
        assert manager.caches == {1: cache}
        assert manager.devices == {1: disk}
        assert not rig.storage.is_open(OTHER)
        # the live one is as alive as before
        await disk.flush()
        await cache.drop_caches()
        assert (cache.state, await read(disk, 0, LINE)) == ("running", lines(1, 0, 1, 1))
        await manager.message("switch_to 2")
        await manager.message(f"resume_cache {OTHER}")
        assert list(manager.caches) == [1, 2]
        assert await read(manager.devices[2], 0, LINE) == lines(2, 0, 1, 1)
        with pytest.raises(LcfsError):
            await manager.message(f"resume_cache {OTHER}")
        await manager.message("switch_to 3")
        with pytest.raises(LcfsError):
            await manager.message(f"resume_cache {OTHER}")
        assert list(manager.caches) == [1, 2]


@pytest.mark.parametrize("number", [0, 255, -1])
async def test_other_ids_are_refused_at_mount(autojump_clock: trio.testing.MockClock, number: int) -> None:
    rig = Rig()
    with pytest.raises(Invalid, match=f"cache id {number} is not possible"):
        async with rig.mounted(MountSpec((CacheSpec(IMAGE, id=number),))):
            pass
    with pytest.raises(AlreadyThere, match="two caches are given the same id"):
        async with rig.mounted(MountSpec((CacheSpec(IMAGE, id=3), CacheSpec(OTHER, id=3)))):
            pass
    assert not rig.storage.media


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE, Operation.FLUSH])
async def test_a_resume_that_fails_half_way_leaves_nothing(
    autojump_clock: trio.testing.MockClock, expect_log: ExpectLog, operation: Operation
) -> None:
    rig = await rig_with_two_images()
    expect_log(r"cache 2 has failed", level=logging.ERROR, at_least=0)
    async with rig.mounted({1: MIB}) as manager:
        await manager.message("switch_to 2")
        wrap = rig.storage.wrap
        fault = Fault(operation, times=0)
        rig.storage.wrap = lambda path, store: FaultStore(store, fault)
        # a superblock copy that cannot be read is no failure, the other one serves: begin behind the two
        for skip in range(2 if operation is Operation.READ else 0, 12):
            fault = Fault(operation, Effect.ERROR, skip=skip)
            try:
                await manager.message(f"resume_cache {OTHER}")
            except (LcfsError, OSError) as exc:
                assert exc.errno == errno.EIO
                assert (list(manager.caches), list(manager.devices)) == ([1], [1]), f"{operation} {skip}"
                assert not rig.storage.is_open(OTHER)
                assert not rig.storage.is_open(backing(2))
            else:
                fault.release()
                break
        rig.storage.wrap = wrap
        assert skip >= 2
        assert list(manager.caches) == [1, 2]
        assert await read(manager.devices[2], 0, LINE) == lines(2, 0, 1, 1)
