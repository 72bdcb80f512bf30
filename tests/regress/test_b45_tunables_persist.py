# SPDX-License-Identifier: GPL-2.0-or-later
"""B45: dm-lc's tunables went back to their defaults with each resume; lcfs keeps them in the superblock, from the moment
the write of an attribute returns."""

from __future__ import annotations

import trio.testing

from lcfs.engine.tunables import TUNABLES
from lcfs.testing import lose_all
from tests.mount.harness import Lcfs
from tests.regress.support import MIB, Rig

CHOSEN = {
    "allow_migrate": 1,
    "force_migrate": 1,
    "nr_max_batched_migration": 7,
    "barrier_deadline_ms": 250,
    "flush_current_buffer_interval": 11,
    "commit_super_block_interval": 3600,
    "update_interval": 0,
}


async def test_each_is_durable_when_it_is_set(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    assert CHOSEN.keys() == TUNABLES.keys()
    # update_interval first: while the modulator runs, allow_migrate is not the operator's
    order = sorted(CHOSEN, key=lambda name: name != "update_interval")
    set_so_far: dict[str, int] = {name: row.default for name, row in TUNABLES.items()}
    for name in order:
        async with rig.mounted({1: MIB}, quiet=False) as manager:
            assert manager.caches[1].tunables == set_so_far
            await manager.caches[1].set_tunable(name, CHOSEN[name])
            set_so_far[name] = CHOSEN[name]
            rig = rig.crash(lose_all)
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        assert manager.caches[1].tunables == CHOSEN
        await manager.set_migrate_threshold(manager.devices[1], 33)
        await manager.set_device_name(manager.devices[1], "db")
        rig = rig.crash(lose_all)
    async with rig.mounted(quiet=False) as manager:
        disk = manager.devices[1]
        assert (disk.migrate_threshold, disk.name) == (33, "db")


async def test_what_the_modulator_decides_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        await manager.caches[1].set_tunable("allow_migrate", 1)
    async with rig.mounted(quiet=False) as manager:
        assert manager.caches[1].tunables["allow_migrate"] == 0


def test_through_the_mount_and_a_kill(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=1M")
    for name in sorted(CHOSEN, key=lambda name: name != "update_interval"):
        lcfs.store(f"caches/1/{name}", CHOSEN[name])
    lcfs.store("block/1/migrate_threshold", 33)
    lcfs.kill9()
    lcfs.mount()
    assert {name: int(lcfs.read(f"caches/1/{name}")) for name in CHOSEN} == CHOSEN
    assert lcfs.read("block/1/migrate_threshold") == "33"
