# SPDX-License-Identifier: GPL-2.0-or-later
"""The modulator under a clock of the test: when migration is allowed, and the two intervals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.modulator import Modulator
from lcfs.engine.tunables import TUNABLES, defaults
from lcfs.testing import MemoryStore, Operation
from tests.engine.rig import QUIET, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


class BusyStore(MemoryStore):
    """A device that has been busy for `share` of the time."""

    share: float | None = 0.0

    def busy_ms(self) -> int | None:
        return None if self.share is None else int(trio.current_time() * 1000 * self.share)


@attrs.define
class Disk:
    id: int
    store: BusyStore | None
    migrate_threshold: int = 70


@attrs.define
class Bench:
    """A modulator with two disks, and what it did when."""

    tunables: dict[str, int] = attrs.field(factory=defaults)
    disks: list[Disk] = attrs.field(
        factory=lambda: [Disk(number, BusyStore(MemoryStore.of_size(4096).medium)) for number in (1, 2)]
    )
    work: bool = True
    unflushed: bool = True
    uncommitted: bool = True
    changes: list[tuple[float, int]] = attrs.field(factory=list)
    flushes: list[float] = attrs.field(factory=list)
    commits: list[float] = attrs.field(factory=list)
    failing: bool = False
    wake: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[float]:
        async def act(times: list[float]) -> None:
            times.append(trio.current_time())
            if self.failing:
                raise Failed("it failed; look")

        modulator = Modulator(
            self.tunables,
            devices=lambda: self.disks,
            has_work=lambda: self.work,
            on_change=lambda: self.changes.append((trio.current_time(), self.tunables["allow_migrate"])),
            flush=lambda: act(self.flushes),
            commit=lambda: act(self.commits),
            unflushed=lambda: self.unflushed,
            uncommitted=lambda: self.uncommitted,
        )
        self.wake = modulator.wake
        async with trio.open_nursery() as nursery:
            nursery.start_soon(modulator.run)
            await trio.testing.wait_all_tasks_blocked()
            yield trio.current_time()
            nursery.cancel_scope.cancel()

    def set_busy(self, number: int, share: float | None) -> None:
        store = self.disks[number - 1].store
        assert store is not None
        store.share = share


async def test_idle_disks_allow_migration_after_two_samples(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.running() as begin:
        await trio.sleep(10.5)
        # the first sample counts as full load, as in 2013
        assert bench.changes == [(pytest.approx(begin + 2), 1)]


@pytest.mark.parametrize(
    ("share", "threshold", "allowed"), [(0.69, 70, 1), (0.71, 70, 0), (1.0, 100, 1), (0.01, 0, 0), (0.0, 0, 1)]
)
async def test_a_disk_busier_than_its_threshold_forbids_it(
    share: float, threshold: int, allowed: int, autojump_clock: Clock
) -> None:
    bench = Bench()
    bench.set_busy(2, share)
    bench.disks[1].migrate_threshold = threshold
    async with bench.running():
        await trio.sleep(5.5)
        assert bench.tunables["allow_migrate"] == allowed


async def test_load_that_comes_and_goes(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.running() as begin:
        await trio.sleep(3.5)
        bench.set_busy(1, 0.9)
        await trio.sleep(2.0)
        assert bench.tunables["allow_migrate"] == 0
        store = bench.disks[0].store
        assert store is not None
        busy = store.busy_ms()
        store.busy_ms = lambda: busy  # type: ignore[method-assign]
        await trio.sleep(2.0)
        assert [allow for _, allow in bench.changes] == [1, 0, 1]
        assert bench.changes[-1][0] <= begin + 7.5


async def test_a_disk_whose_load_nobody_counts_or_that_is_missing_forbids_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.set_busy(1, None)
    bench.disks[1].store = None
    async with bench.running():
        await trio.sleep(3)
        assert bench.tunables["allow_migrate"] == 1


async def test_force_migrate_allows_it_under_any_load(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.set_busy(1, 1.0)
    async with bench.running():
        await trio.sleep(3)
        assert bench.tunables["allow_migrate"] == 0
        bench.tunables["force_migrate"] = 1
        await trio.sleep(1.5)
        assert bench.tunables["allow_migrate"] == 1


async def test_update_interval_is_the_time_between_samples(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.tunables["update_interval"] = 60
    async with bench.running() as begin:
        await trio.sleep(119)
        assert bench.changes == []
        await trio.sleep(2)
        assert bench.changes == [(pytest.approx(begin + 120), 1)]


async def test_update_interval_0_leaves_allow_migrate_to_the_operator(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.tunables["update_interval"] = 0
    bench.tunables["allow_migrate"] = 1
    bench.set_busy(1, 1.0)
    async with bench.running():
        await trio.sleep(1000)
        assert bench.changes == []
        assert bench.tunables["allow_migrate"] == 1


async def test_without_work_nothing_is_sampled_until_it_is_woken(autojump_clock: Clock) -> None:
    bench = Bench(work=False)
    async with bench.running():
        await trio.sleep(1000)
        assert bench.changes == []
        bench.work = True
        bench.wake()
        begin = trio.current_time()
        await trio.sleep(3)
        ((when, allow),) = bench.changes
        assert begin < when <= begin + 2
        assert allow == 1


@pytest.mark.parametrize("name", ["flush_current_buffer_interval", "commit_super_block_interval"])
async def test_an_interval_acts_each_time_there_is_something_to_do(name: str, autojump_clock: Clock) -> None:
    bench = Bench(work=False)
    bench.tunables[name] = 5
    done, other = bench.flushes, bench.commits
    if name == "commit_super_block_interval":
        done, other = other, done
    async with bench.running() as begin:
        await trio.sleep(16)
        assert [at - begin for at in done] == pytest.approx([5, 10, 15])
        bench.unflushed = bench.uncommitted = False
        await trio.sleep(100)
        assert len(done) == 3
        bench.unflushed = bench.uncommitted = True
        await trio.sleep(5)
        assert len(done) == 4
        assert other == []


async def test_intervals_are_off_by_default_and_can_be_switched_on_while_it_runs(autojump_clock: Clock) -> None:
    assert TUNABLES["flush_current_buffer_interval"].default == TUNABLES["commit_super_block_interval"].default == 0
    bench = Bench(work=False)
    async with bench.running():
        await trio.sleep(100)
        assert bench.flushes == bench.commits == []
        bench.tunables["flush_current_buffer_interval"] = 1
        bench.wake()
        await trio.sleep(10.5)
        assert len(bench.flushes) in (10, 11)
        bench.tunables["flush_current_buffer_interval"] = 0
        bench.wake()
        done = len(bench.flushes)
        await trio.sleep(10)
        assert len(bench.flushes) == done


async def test_an_action_that_fails_is_told_and_tried_again(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expectation = expect_log("flush_current_buffer_interval: it failed; look")
    bench = Bench(failing=True)
    bench.tunables["flush_current_buffer_interval"] = 1
    async with bench.running():
        await trio.sleep(3.5)
    assert len(bench.flushes) == 3 == len(expectation.records)


# In a cache


async def test_an_idle_cache_writes_nothing(autojump_clock: Clock) -> None:
    """B18: with every interval on, and an open disk."""
    tunables = {"flush_current_buffer_interval": 1, "commit_super_block_interval": 1, "update_interval": 1}
    async with Rig.running(tunables=tunables) as rig:
        await rig.write(1, 0, page(1))
        await trio.sleep(5)
        rig.log.clear()
        await trio.sleep(10000)
        assert rig.log.calls == []
        assert rig.cache.current_segment_id == 1


async def test_the_flush_interval_makes_ram_durable(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={**QUIET, "flush_current_buffer_interval": 10}) as rig:
        await rig.write(1, 0, page(1))
        await trio.sleep(9)
        assert rig.flushes() == 0
        await trio.sleep(2)
        assert rig.flushes() == 1
        assert len(await rig.lab.crash().records()) == 1


async def test_the_commit_interval_stores_what_changed(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={**QUIET, "commit_super_block_interval": 10}) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        assert (await rig.lab.superblock()).head == 8
        await trio.sleep(11)
        assert (await rig.lab.superblock()).head == 10
        rig.log.clear()
        await trio.sleep(100)
        assert rig.log.count(Operation.WRITE) == 0


async def test_allow_migrate_of_the_modulator_is_not_stored_and_that_of_the_operator_is(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={"update_interval": 1}) as rig:
        await rig.cache.set_tunable("allow_migrate", 1)
        assert (await rig.lab.superblock()).tunables["allow_migrate"] == 0
        await rig.cache.set_tunable("update_interval", 0)
        await rig.cache.set_tunable("allow_migrate", 1)
        assert (await rig.lab.superblock()).tunables["allow_migrate"] == 1


async def test_a_tunable_is_durable_when_it_is_set(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.cache.set_tunable("barrier_deadline_ms", 999)
        assert (await rig.lab.crash().superblock()).tunables["barrier_deadline_ms"] == 999
    async with rig.lab.run() as again:
        assert again.cache.tunables["barrier_deadline_ms"] == 999
        assert again.devices[1].nr_lines * LINE == 64 * LINE
