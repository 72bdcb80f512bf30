# SPDX-License-Identifier: GPL-2.0-or-later
"""The modulator under a clock of the test: when migration is allowed, and the two intervals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from lcfs.engine.backing_load import BackingLoad
from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.modulator import Modulator
from lcfs.engine.pace import STEP, next_step
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
    load: BackingLoad = attrs.field(factory=BackingLoad)


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
    modulator: Modulator = attrs.field(init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[float]:
        async def act(times: list[float]) -> None:
            times.append(trio.current_time())
            if self.failing:
                raise Failed("it failed; look")

        modulator = self.modulator = Modulator(
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


# The share of the time


@pytest.mark.parametrize(
    ("others", "threshold", "share"),
    [(0.0, 70, 0.63), (0.5, 70, 0.18), (0.69, 70, 0.05), (0.0, 100, 1.0), (0.99, 100, 1.0), (0.0, 0, 0.05)],
)
async def test_migration_gets_most_of_what_others_leave_of_the_threshold(
    others: float, threshold: int, share: float, autojump_clock: Clock
) -> None:
    bench = Bench()
    bench.set_busy(2, others)
    bench.disks[0].migrate_threshold = 100
    bench.disks[1].migrate_threshold = threshold
    async with bench.running() as _:
        await trio.sleep(3.5)
        assert bench.modulator.share == pytest.approx(share, abs=0.002)
        bench.tunables["force_migrate"] = 1
        assert bench.modulator.share == 1.0
        bench.tunables |= {"force_migrate": 0, "update_interval": 0}
        assert bench.modulator.share == 1.0


async def test_what_migration_does_itself_is_not_counted_as_the_load_of_others(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.set_busy(1, 0.6)
    load = bench.disks[0].load
    async with bench.running():
        for _ in range(8):
            with load.requests, load.migration:
                await trio.sleep(0.5)
            await trio.sleep(0.5)
        # 60 % at work, 50 of them migration's: others leave 60 of 70 %
        assert bench.modulator.share == pytest.approx(0.9 * 0.6, abs=0.01)
        assert load.percent == pytest.approx(60, abs=1)


async def test_where_nobody_counts_our_own_requests_and_their_latency_tell(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.set_busy(1, None)
    load = bench.disks[0].load

    async def read(latency: float, times: int) -> None:
        for _ in range(times):
            with load.reading(LINE):
                await trio.sleep(latency)
            await trio.sleep(0.1 - latency)

    async with bench.running():
        await read(0.01, 30)
        assert load.percent == pytest.approx(10, abs=2)
        assert bench.tunables["allow_migrate"] == 1
        # somebody else is at it: the same requests take five times as long
        await read(0.05, 20)
        assert load.percent > 90
        assert bench.tunables["allow_migrate"] == 0
        assert "disk 1 is busy" in bench.modulator.reason
        await read(0.01, 20)
        assert bench.tunables["allow_migrate"] == 1


def test_a_step_is_fitted_to_the_disk() -> None:
    assert next_step(64, STEP / 10, 8192) == 128
    assert next_step(8192, STEP / 10, 8192) == 8192
    assert next_step(64, STEP, 8192) == 64
    assert next_step(64, 10 * STEP, 8192) == 32
    assert next_step(1, 10 * STEP, 8192) == 1


# In a cache


SLOW = 0.008


async def _fill(rig: Rig, segments: int) -> None:
    """Dirty lines far from each other, so that no two share a request."""
    lines = rig.cache.geometry.lines_per_segment
    for at in range(segments * lines):
        await rig.write(1, at * 300 * LINE, page(at))
    await rig.cache.barrier()


async def test_a_slow_disk_stays_under_its_threshold_while_it_is_migrated_to(autojump_clock: Clock) -> None:
    async with Rig.running(segments=256, disks={1: 1 << 31}, tunables={"update_interval": 1}) as rig:
        rig.devices[1].migrate_threshold = 40
        rig.backings[1].delay.writes = SLOW
        assert rig.cache.migration == "idle"
        await _fill(rig, 200)
        dirty = rig.cache.nr_dirty_caches
        rig.log.clear()
        await trio.sleep(20)
        assert 0.25 < len(rig.written("disk1")) * SLOW / 20 < 0.40
        assert rig.cache.migration == "migrating for 36 % of the time"
        assert 20 * 0.25 / SLOW < dirty - rig.cache.nr_dirty_caches < 20 * 0.40 / SLOW


async def test_from_the_high_watermark_to_the_low_one_it_runs_whatever_the_load(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig.running(segments=64, disks={1: 1 << 31}, tunables={"update_interval": 1}) as rig:
        monkeypatch.setattr(rig.backings[1], "busy_ms", lambda: int(trio.current_time() * 1000))
        rig.backings[1].delay.writes = SLOW
        await _fill(rig, 55)
        await trio.sleep(10)
        assert rig.cache.tunables["allow_migrate"] == 0
        assert rig.written("disk1") == []
        assert rig.cache.migration == "waiting disk 1 is busy: 100 %, its migrate_threshold is 70 %"
        for at in range(20):
            await rig.write(1, (at * 300 + 150) * LINE, page(at))
        await rig.cache.barrier()
        ring = rig.cache.ring
        assert ring.nr_free < 8
        assert "since the cache fills" in rig.cache.migration
        await trio.sleep(60)
        assert 16 <= ring.nr_free < 24
        assert rig.cache.nr_dirty_caches > 0
        assert rig.cache.migration.startswith("waiting disk 1 is busy")


async def test_with_update_interval_0_there_are_no_watermarks(autojump_clock: Clock) -> None:
    async with Rig.running(segments=64, disks={1: 1 << 31}) as rig:
        await _fill(rig, 62)
        await trio.sleep(60)
        assert rig.written("disk1") == []
        assert rig.cache.migration == "waiting allow_migrate is 0"


async def test_forcing_migration_ends_a_rest(autojump_clock: Clock) -> None:
    async with Rig.running(segments=64, disks={1: 1 << 31}, tunables={"update_interval": 1}) as rig:
        rig.devices[1].migrate_threshold = 1
        rig.backings[1].delay.writes = 0.02
        await _fill(rig, 20)
        await trio.sleep(5)
        dirty = rig.cache.nr_dirty_caches
        assert 0 < dirty < 20 * rig.cache.geometry.lines_per_segment
        await trio.sleep(4)
        assert rig.cache.nr_dirty_caches == dirty
        await rig.cache.set_tunable("force_migrate", 1)
        await trio.sleep(3)
        assert rig.cache.nr_dirty_caches < dirty


async def test_a_writer_that_waits_ends_a_rest(autojump_clock: Clock) -> None:
    async with Rig.running(segments=16, disks={1: 1 << 31}, tunables={"update_interval": 1}) as rig:
        rig.devices[1].migrate_threshold = 1
        rig.backings[1].delay.writes = SLOW
        begin = trio.current_time()
        await _fill(rig, 60)
        lines = (60 - 16) * rig.cache.geometry.lines_per_segment
        assert trio.current_time() - begin < 1.5 * lines * SLOW


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
