# SPDX-License-Identifier: GPL-2.0-or-later
"""The real engine, on a ring of a few lines, does what the model does: whatever the order of operations."""

import random
from contextlib import AbstractAsyncContextManager

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lcfs.engine.device import Device
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.manager import Manager
from lcfs.engine.ring import Ring
from lcfs.testing import Model, Violation, keep_random
from lcfs.testing.explorer import SETUPS
from lcfs.testing.stepper import Stepper
from lcfs.testing.world import Setup, World, make_media
from tests.plugins.log_check import ExpectLog

DISKS = st.sampled_from([1, 2])
LINES = 16


@st.composite
def extents(draw: st.DrawFn) -> tuple[int, int]:
    """Offset and length of a request: whole lines, sectors, or any bytes; some cross the end of a disk."""
    unit = draw(st.sampled_from([LINE, LINE, SECTOR, SECTOR, 1]))
    offset = draw(st.integers(0, LINES * LINE // unit - 1)) * unit
    length = draw(st.integers(1, 6 * LINE // unit)) * unit
    if unit == 1:
        length = max(length, 16)  # shorter data may look like what was there before
    return offset, length


class HostedWorld(World):
    """A world whose mounts live in a task of their own, so that any task may start and stop them."""

    nursery: trio.Nursery

    async def _enter(self, mount: AbstractAsyncContextManager[Manager]) -> Manager:
        self._leave, self._left = trio.Event(), trio.Event()
        manager = await self.nursery.start(self._hold, mount, self._leave, self._left)
        assert isinstance(manager, Manager)
        return manager

    async def stop(self) -> None:
        self._leave.set()
        await self._left.wait()

    @staticmethod
    async def _hold(
        mount: AbstractAsyncContextManager[Manager],
        leave: trio.Event,
        left: trio.Event,
        task_status: trio.TaskStatus[Manager],
    ) -> None:
        async with mount as manager:
            task_status.started(manager)
            await leave.wait()
        left.set()


class Machine(RuleBasedStateMachine):
    """Two disks and a cache; every step leaves them reading as the model does, and the books balanced."""

    world: HostedWorld

    @initialize(setup=st.sampled_from(SETUPS), nowait=st.booleans(), seed=st.integers(0, 1000))
    def begin(self, setup: Setup, nowait: bool, seed: int) -> None:
        self.stepper = Stepper(seed)
        self.nowait = nowait
        model = Model()
        for disk, size in enumerate(setup.disks, 1):
            model.add_disk(disk, size, 1)

        async def mount() -> None:
            self.begin_on(HostedWorld(await make_media(setup), model, yields=True, nowait=nowait))
            await self.world.start()

        self.stepper.run(mount)

    def begin_on(self, world: HostedWorld) -> None:
        world.nursery = self.stepper.nursery
        self.world = world

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.stepper.run(self.world.stop)
            self.stepper.close()

    @rule(disk=DISKS, extent=extents())
    def write(self, disk: int, extent: tuple[int, int]) -> None:
        offset, length = extent
        if offset < self.world.model.sizes[disk]:
            self.stepper.run(self.world.write, disk, offset, length)

    @rule(disk=DISKS, line=st.integers(0, LINES - 2), count=st.integers(1, 8))
    def overwrite(self, disk: int, line: int, count: int) -> None:
        for i in range(count):
            self.stepper.run(self.world.write, disk, (line + i % 2) * LINE, SECTOR * (1 + i))

    @rule(disk=DISKS, extent=extents())
    def read(self, disk: int, extent: tuple[int, int]) -> None:
        offset, length = extent
        if offset < self.world.model.sizes[disk]:
            self.stepper.run(self.world.read, disk, offset, length)

    @rule(disk=DISKS)
    def barrier(self, disk: int) -> None:
        self.stepper.run(self.world.barrier, disk)

    @rule()
    def flush_current_buffer(self) -> None:
        cache = self.world.manager.caches[1]
        self.stepper.run(cache.flush_current_buffer)
        assert cache.last_flushed_segment_id == cache.current_segment_id

    @rule()
    def commit_super_block(self) -> None:
        self.stepper.run(self.world.manager.caches[1].commit_super_block)

    @rule()
    def drop_caches(self) -> None:
        cache = self.world.manager.caches[1]
        self.stepper.run(cache.drop_caches)
        assert cache.nr_dirty_caches == 0
        assert cache.last_migrated_segment_id == cache.last_flushed_segment_id == cache.current_segment_id
        for disk in self.world.model.sizes:
            if self.world.device(disk).cache_id:
                self.check_backing(disk)

    def check_backing(self, disk: int) -> None:
        """The backing alone holds all of the disk."""
        size = self.world.model.sizes[disk]
        self.world.model.check_read(disk, 0, self.world.storage.media[f"/disk{disk}.img"].live.read(0, size))

    @rule(batch=st.sampled_from([1, 2, 32]), seconds=st.sampled_from([0.0, 0.01, 5.0]))
    def migrate(self, batch: int, seconds: float) -> None:
        async def migrate() -> None:
            cache = self.world.manager.caches[1]
            await cache.set_tunable("nr_max_batched_migration", batch)
            await cache.set_tunable("force_migrate", 1)
            await trio.sleep(seconds)
            await cache.set_tunable("force_migrate", 0)

        self.stepper.run(migrate)

    @rule(interval=st.sampled_from([0, 1]), seconds=st.sampled_from([0.001, 1.1, 60.0]))
    def wait(self, interval: int, seconds: float) -> None:
        async def wait() -> None:
            await self.world.manager.caches[1].set_tunable("update_interval", interval)
            await trio.sleep(seconds)

        self.stepper.run(wait)

    @rule(disk=DISKS)
    def detach(self, disk: int) -> None:
        self.stepper.run(self.world.detach, disk)
        assert self.world.device(disk).nr_dirty_caches == 0
        self.check_backing(disk)

    @rule(disk=DISKS)
    def attach(self, disk: int) -> None:
        self.stepper.run(self.world.attach, disk)

    @rule(
        requests=st.lists(st.tuples(st.sampled_from("wwwrb"), DISKS, extents()), min_size=2, max_size=6),
        draining=st.booleans(),
    )
    def side_by_side(self, requests: list[tuple[str, int, tuple[int, int]]], draining: bool) -> None:
        async def together() -> None:
            async with trio.open_nursery() as nursery:
                if draining:
                    nursery.start_soon(self.world.manager.caches[1].drop_caches)
                for kind, disk, (offset, length) in requests:
                    # whole sectors: the model does not say what becomes of one that two requests share
                    offset, length = offset // SECTOR * SECTOR, -(-length // SECTOR) * SECTOR
                    if offset >= self.world.model.sizes[disk]:
                        continue
                    if kind == "b":
                        nursery.start_soon(self.world.barrier, disk)
                    else:
                        request = self.world.write if kind == "w" else self.world.read
                        nursery.start_soon(request, disk, offset, length)

        self.stepper.run(together)

    @rule()
    def remount(self) -> None:
        self.stepper.run(self.world.stop)
        self.stepper.run(self.world.start)

    @rule()
    def kill(self) -> None:
        async def kill() -> None:
            await self.world.kill()
            await self.world.start()
            contents = await self.world.contents()
            self.world.model.check_recovered(contents)
            self.world.model.check_caches(self.world.caches_of())
            self.world.model.settle(contents)

        self.stepper.run(kill)

    @rule(seed=st.integers(0, 1 << 32))
    def lose_power(self, seed: int) -> None:
        old = self.world

        async def recover() -> None:
            media = old.storage.crash(keep_random(random.Random(seed))).media
            model = Model()
            self.begin_on(HostedWorld(media, model, yields=True, nowait=self.nowait))
            await self.world.start()
            for disk, size in old.model.sizes.items():
                model.add_disk(disk, size, self.world.manager.devices[disk].cache_id or None)
            contents = await self.world.contents()
            old.model.check_recovered(contents)
            old.model.check_caches(self.world.caches_of())
            for disk, content in contents.items():
                model.add_disk(disk, len(content), model.caches[disk], content)
            await old.stop()

        self.stepper.run(recover)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def reads_as_the_model_does(self) -> None:
        self.stepper.run(self.world.check)


@pytest.fixture(autouse=True)
def recovery_may_speak(expect_log: ExpectLog) -> None:
    expect_log("", at_least=0)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_barrier_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def acknowledge_only(self: Device) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Device, "flush", acknowledge_only)
    with pytest.raises(Violation, match="R1"):
        run_state_machine_as_test(Machine, settings=settings(max_examples=500, phases=[Phase.generate], database=None))


def test_an_older_version_that_lands_on_a_newer_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Ring, first_id: int, last_id: int) -> int:
        return 0

    monkeypatch.setattr(Ring, "overtaken_by", forgetful)
    with pytest.raises(Violation, match="R"):
        run_state_machine_as_test(Machine, settings=settings(max_examples=3000, phases=[Phase.generate], database=None))
