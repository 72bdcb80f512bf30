# SPDX-License-Identifier: GPL-2.0-or-later
"""B16: dm-lc took any number for migrate_threshold and kept its low byte, so that 300 became 44; lcfs takes 0 to 100, and
EINVAL leaves the old value."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from lcfs.engine import Invalid
from tests.mount.harness import Lcfs
from tests.regress.support import MIB, Rig, lines, write


async def test_what_is_out_of_range_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        assert disk.migrate_threshold == 70
        for value in (0, 100, 44):
            await manager.set_migrate_threshold(disk, value)
            assert disk.migrate_threshold == value
        for value in (101, 255, 256, 300, -1):
            with pytest.raises(Invalid, match=f"migrate_threshold takes 0 to 100, not {value}"):
                await manager.set_migrate_threshold(disk, value)
            assert disk.migrate_threshold == 44
    async with rig.mounted() as manager:
        assert manager.devices[1].migrate_threshold == 44


async def test_a_write_back_leaves_it_alone(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        await manager.set_migrate_threshold(disk, 20)
        await write(disk, 0, lines(1, 0, 1, 1))
        await manager.caches[1].drop_caches()
        assert disk.migrate_threshold == 20


def test_the_attribute(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=1M")
    name = "block/1/migrate_threshold"
    assert lcfs.read(name) == "70"
    lcfs.store(name, 100)
    for value in (101, 256, 300):
        with pytest.raises(OSError) as refusal:
            lcfs.store(name, value)
        assert refusal.value.errno == errno.EINVAL
        assert f"takes 0 to 100, not {value}" in lcfs.read("control")
        assert lcfs.read(name) == "100"
