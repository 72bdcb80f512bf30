# SPDX-License-Identifier: GPL-2.0-or-later
"""B39: a large nr_max_batched_migration crashed the kernel under dm-lc; lcfs takes 1 to 256, and EINVAL leaves the old
value."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from lcfs.engine import Invalid
from lcfs.testing import Operation
from tests.mount.harness import Lcfs
from tests.regress.support import LINE, MIB, Rig, lines, on_backing, write

NAME = "nr_max_batched_migration"


async def test_what_is_out_of_range_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache = manager.caches[1]
        assert cache.tunables[NAME] == 32
        for value in (0, 257, 100000, 1 << 63):
            with pytest.raises(Invalid, match=f"{NAME} takes 1 to 256, not {value}"):
                await cache.set_tunable(NAME, value)
            assert cache.tunables[NAME] == 32


@pytest.mark.parametrize("size", [1, 256])
async def test_the_bounds_work(autojump_clock: trio.testing.MockClock, size: int) -> None:
    rig = Rig()
    await rig.format(20, 8)
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await cache.set_tunable(NAME, size)
        await write(disk, 0, lines(1, 0, 15 * 7 + 1, 1))
        rig.log.clear()
        await cache.set_tunable("allow_migrate", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert cache.last_migrated_segment_id == 15
        assert rig.log.count(Operation.FLUSH, "/disk1.img") == (15 if size == 1 else 1)
        assert on_backing(rig, 1)[: 105 * LINE] == lines(1, 0, 105, 1)


def test_the_attribute(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=1M")
    for value in ("100000", "257", "0", "18446744073709551615"):
        with pytest.raises(OSError) as refusal:
            lcfs.store(f"caches/1/{NAME}", value)
        assert refusal.value.errno == errno.EINVAL
        assert lcfs.read(f"caches/1/{NAME}") == "32"
    assert lcfs.read("caches/1/state") == "running"
