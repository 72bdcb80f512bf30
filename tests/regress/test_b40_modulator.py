# SPDX-License-Identifier: GPL-2.0-or-later
"""B40: dm-lc's daemon died of update_interval 0, of disks it could not measure and of its own stop command, and never saw
disks that came later; in lcfs the modulator is part of the cache, and 0 leaves allow_migrate to the operator."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine import BlockStore, Cache, Device
from lcfs.testing import Effect, Layer, Operation
from tests.regress.support import IMAGE, LINE, MIB, Rig, backing, lines, one_cache, write

Load = dict[str, int | None]


class Busy(Layer):
    """A backing that is busy for as many percent of the time as `load` says under its name; None: nobody counts."""

    def __init__(self, next: BlockStore, load: Load) -> None:
        super().__init__(next)
        self.load = load
        self.total = 0.0
        self.since = trio.current_time()

    def busy_ms(self) -> int | None:
        now, percent = trio.current_time(), self.load[self.name]
        self.total += (now - self.since) * 10 * (percent or 0)
        self.since = now
        return None if percent is None else int(self.total)


def loaded(rig: Rig, load: Load) -> Rig:
    """The rig, with a load on each backing."""
    wrap = rig.storage.wrap
    rig.storage.wrap = lambda path, store: wrap(path, store) if path == IMAGE else Busy(wrap(path, store), load)
    return rig


async def dirty_segment(cache: Cache, disk: Device) -> None:
    """Something to migrate."""
    await write(disk, 0, lines(disk.id, 0, 4, 1))
    await disk.flush()
    cache.close_segment()


async def test_the_load_decides(autojump_clock: trio.testing.MockClock) -> None:
    load: Load = {backing(1): 100}
    rig = loaded(Rig(), load)
    async with rig.mounted(one_cache({1: MIB}, 16 * MIB), quiet=False) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await dirty_segment(cache, disk)
        await trio.sleep(60)
        assert (cache.tunables["allow_migrate"], disk.nr_dirty_caches) == (0, 4)
        load[backing(1)] = 71
        await trio.sleep(10)
        assert (cache.tunables["allow_migrate"], disk.nr_dirty_caches) == (0, 4)
        load[backing(1)] = 69
        await trio.sleep(5)
        assert disk.nr_dirty_caches == 0


async def test_a_disk_that_comes_later_is_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    load: Load = {backing(1): 0, backing(2): 100}
    rig = loaded(Rig(), load)
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        hung = rig.fault(backing(1), Operation.WRITE, Effect.HANG, times=None)  # so that there is work all the time
        await dirty_segment(cache, disk)
        await trio.sleep(3.5)
        assert cache.tunables["allow_migrate"] == 1
        await manager.message(f"create 2 {backing(2)} 1M cache=1")
        await trio.sleep(3.5)
        assert cache.tunables["allow_migrate"] == 0
        await cache.set_tunable("force_migrate", 1)
        await trio.sleep(3.5)
        assert cache.tunables["allow_migrate"] == 1
        await cache.set_tunable("force_migrate", 0)
        await manager.message("detach 2")
        await trio.sleep(3.5)
        assert cache.tunables["allow_migrate"] == 1
        hung.release()
        await trio.sleep(60)
        assert disk.nr_dirty_caches == 0


@pytest.mark.parametrize("percent", [None, 0, 100])
async def test_without_an_interval_the_operator_decides(autojump_clock: trio.testing.MockClock, percent: int | None) -> None:
    rig = loaded(Rig(), {backing(1): percent})
    async with rig.mounted({1: MIB}, quiet=False) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await cache.set_tunable("update_interval", 0)
        await cache.set_tunable("allow_migrate", 0)
        await dirty_segment(cache, disk)
        await trio.sleep(3600)
        assert (cache.tunables["allow_migrate"], disk.nr_dirty_caches) == (0, 4)
        await cache.set_tunable("allow_migrate", 1)
        await trio.sleep(1)
        assert disk.nr_dirty_caches == 0
        await trio.sleep(3600)
        assert cache.tunables["allow_migrate"] == 1


async def test_a_disk_that_cannot_be_measured(autojump_clock: trio.testing.MockClock) -> None:
    load: Load = {backing(1): None, backing(2): 100}
    rig = loaded(Rig(), load)
    async with rig.mounted(one_cache({1: MIB, 2: MIB}, 16 * MIB), quiet=False) as manager:
        cache, (disk, _) = manager.caches[1], manager.devices.values()
        await dirty_segment(cache, disk)
        await trio.sleep(60)
        assert disk.nr_dirty_caches == 4
        load[backing(2)] = None
        await trio.sleep(5)
        assert disk.nr_dirty_caches == 0
    assert rig.medium(backing(1)).live.read(0, 4 * LINE) == lines(1, 0, 4, 1)
