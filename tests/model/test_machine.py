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

from lcfs.engine import read_path
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.manager import Manager
from lcfs.testing import Model, Violation, keep_random
from lcfs.testing.explorer import SETUPS, Recovered, settled
from lcfs.testing.stepper import Stepper
from lcfs.testing.world import Setup, World, make_media
from tests.plugins.log_check import ExpectLog

DISKS = st.sampled_from([1, 1, 2, 2, 3])
CACHES = st.sampled_from([1, 2])
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
    """A few disks, a cache or two; every step leaves them reading as the model does, and the books balanced.

    What is asked of a disk that does not exist is not done; a cache that does not exist stands for the first.
    """

    world: HostedWorld

    @initialize(setup=st.sampled_from(SETUPS), nowait=st.booleans(), seed=st.integers(0, 1000))
    def begin(self, setup: Setup, nowait: bool, seed: int) -> None:
        self.stepper = Stepper(seed)
        self.nowait = nowait
        model = setup.model()

        async def mount() -> None:
            self.begin_on(HostedWorld(await make_media(setup), model, yields=True, nowait=nowait))
            await self.world.start()

        self.stepper.run(mount)

    def begin_on(self, world: HostedWorld) -> None:
        world.nursery = self.stepper.nursery
        self.world = world

    def cache(self, number: int) -> Cache:
        caches = self.world.manager.caches
        return caches[number if number in caches else 1]

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.stepper.run(self.world.stop)
            finally:
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

    @rule(number=CACHES)
    def flush_current_buffer(self, number: int) -> None:
        cache = self.cache(number)
        self.stepper.run(cache.flush_current_buffer)
        assert cache.last_flushed_segment_id == cache.current_segment_id

    @rule(number=CACHES)
    def commit_super_block(self, number: int) -> None:
        self.stepper.run(self.cache(number).commit_super_block)

    @rule(number=CACHES)
    def drop_caches(self, number: int) -> None:
        cache = self.cache(number)
        self.stepper.run(cache.drop_caches)
        assert cache.nr_dirty_caches == 0
        assert cache.last_migrated_segment_id == cache.last_flushed_segment_id == cache.current_segment_id
        for device in cache.attached_devices():
            self.check_backing(device.id)

    def check_backing(self, disk: int) -> None:
        """The backing alone holds all of the disk."""
        size = self.world.model.sizes[disk]
        self.world.model.check_read(disk, 0, self.world.storage.media[f"/disk{disk}.img"].live.read(0, size))

    @rule(number=CACHES, batch=st.sampled_from([1, 2, 32]), seconds=st.sampled_from([0.0, 0.01, 5.0]))
    def migrate(self, number: int, batch: int, seconds: float) -> None:
        async def migrate() -> None:
            cache = self.cache(number)
            await cache.set_tunable("nr_max_batched_migration", batch)
            await cache.set_tunable("force_migrate", 1)
            await trio.sleep(seconds)
            await cache.set_tunable("force_migrate", 0)

        self.stepper.run(migrate)

    @rule(number=CACHES, interval=st.sampled_from([0, 1]), seconds=st.sampled_from([0.001, 1.1, 60.0]))
    def wait(self, number: int, interval: int, seconds: float) -> None:
        async def wait() -> None:
            await self.cache(number).set_tunable("update_interval", interval)
            await trio.sleep(seconds)

        self.stepper.run(wait)

    @rule(disk=DISKS)
    def detach(self, disk: int) -> None:
        self.stepper.run(self.world.detach, disk)
        if self.world.there(disk):
            assert self.world.device(disk).nr_dirty_caches == 0
            self.check_backing(disk)

    @rule(disk=DISKS, number=CACHES)
    def attach(self, disk: int, number: int) -> None:
        self.stepper.run(self.world.attach, disk, self.cache(number).id)

    @rule(disk=DISKS, number=st.sampled_from([None, 1, 2]))
    def create(self, disk: int, number: int | None) -> None:
        self.stepper.run(self.world.create, disk, None if number is None else self.cache(number).id)

    @rule(disk=DISKS)
    def remove(self, disk: int) -> None:
        self.stepper.run(self.world.remove, disk)
        if f"/disk{disk}.img" in self.world.storage.media:
            self.check_backing(disk)

    @precondition(lambda self: len(self.world.manager.caches) > 1)
    @rule()
    def free_and_resume(self) -> None:
        async def free_and_resume() -> None:
            manager, cache = self.world.manager, self.world.manager.caches[2]
            for device in cache.attached_devices():
                await self.world.detach(device.id)
            await manager.free_cache(2)
            manager.cursor = 2
            await manager.resume_cache(cache.path)
            self.world.clear_counts()

        self.stepper.run(free_and_resume)

    @rule(
        requests=st.lists(st.tuples(st.sampled_from("wwwrb"), DISKS, extents()), min_size=2, max_size=6),
        draining=st.booleans(),
        number=CACHES,
    )
    def side_by_side(self, requests: list[tuple[str, int, tuple[int, int]]], draining: bool, number: int) -> None:
        async def together() -> None:
            async with trio.open_nursery() as nursery:
                if draining:
                    nursery.start_soon(self.cache(number).drop_caches)
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
            model.sizes.update(old.model.sizes)
            found = Recovered(await self.world.contents(), self.world.caches_of(), self.world.log)
            old.model.check_recovered(found.contents)
            old.model.check_caches(found.caches)
            self.world.model = settled(found, media, old.model.sizes)
            self.world.model.now = self.world.tick
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


def test_a_line_read_without_the_backing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of_it(out: memoryview, content: memoryview, mask: int) -> None:
        out[:] = content

    monkeypatch.setattr(read_path, "_overlay", all_of_it)
    with pytest.raises(Violation, match="read"):
        run_state_machine_as_test(Machine, settings=settings(max_examples=500, phases=[Phase.generate], database=None))
