# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of a mount after an operation on it was disturbed, whatever it was and however.

Requests of disks whose files are well are served, the control tree answers, counters and ids are right (R10). Whenever
power is lost, a mount on good files recovers, the oracle holds (R1, R2, R3), and management operations have left the old
state or the new one (R9). When the disturbance is over, everything works again, or a cache says that it has failed and
refuses barriers. Shutdown ends, and lets go of every file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager

import attrs
import trio

from lcfs.engine.errors import LcfsError, Missing
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing import Violation, keep_all, lose_all
from lcfs.testing.stepper import make_deterministic
from tests.faults.acts import Act
from tests.faults.bench import (
    DISKS,
    IMAGES,
    LINES,
    OP_PATIENCE,
    OTHER,
    OTHERS_PATIENCE,
    PATHS,
    SETTLE,
    SPARE,
    STOP_PATIENCE,
    Bench,
    Ending,
    Settings,
    Shape,
    Start,
    attempted,
    make_start,
    random_choice,
    require_named,
    within,
)
from tests.faults.storage import Spot
from tests.faults.watch import no_spinning

COMMIT_GIVEN_UP = 150.0
"""Seconds after which an operation on well files has ended although another waits for a commit that hangs."""
RECOVERY = 40.0
"""Seconds in which a backing that failed is tried again."""


@attrs.frozen
class DryRun:
    """What an operation does when it is left alone."""

    calls: dict[Spot, int]
    steps: int
    """Steps of tasks, of all of them, while it was under way."""
    before: Settings
    after: Settings

    @property
    def allowed(self) -> tuple[Settings, ...]:
        """What it may leave when it is disturbed (R9)."""
        return self.before, self.after


@attrs.define(eq=False)
class Judge:
    """Prepares mounts of one shape, and looks at what became of them."""

    shape: Shape = attrs.field(factory=Shape)
    seed: int = 0
    _start: Start | None = None
    _dry: dict[str, DryRun] = attrs.field(factory=dict)

    async def start(self) -> Start:
        """Where everything begins."""
        if self._start is None:
            make_deterministic(self.seed)
            self._start = await make_start(self.shape)
        return self._start

    @asynccontextmanager
    async def prepared(self, act: Act) -> AsyncIterator[Bench]:
        """A bench on which the operation can begin; taken down with no questions asked."""
        start = await self.start()
        make_deterministic(self.seed)
        async with no_spinning(), trio.open_nursery() as nursery:
            bench = Bench(start, nursery)
            if not act.mounts:
                await bench.start()
                await act.prepare(bench)
            yield bench
            nursery.cancel_scope.cancel()

    async def dry_run(self, act: Act) -> DryRun:
        """Undisturbed; what goes wrong here is not for want of good files."""
        if act.name not in self._dry:
            self._dry[act.name] = await self._run_dry(act)
        return self._dry[act.name]

    async def _run_dry(self, act: Act) -> DryRun:
        async with self.prepared(act) as bench:
            before = bench.settings() if bench.mounted else None
            bench.storage.start_census(PATHS)
            async with attempted(bench, act.do) as attempt:
                ending = await attempt.wait(OP_PATIENCE)
                if ending.how != "ok":
                    raise Violation("liveness", 0, 0, f"it ends with {ending} though nothing is wrong") from ending.error
            after = bench.settings()
            if bench.mounted:
                await trio.sleep(SETTLE)
            if before is None:
                before = attrs.evolve(after, disks=tuple(disk for disk in after.disks if disk.id in DISKS))
            dry = DryRun(bench.storage.census(), attempt.steps, before, after)
            await self.judge_end(bench, (after,), well=True)
        return dry

    async def judge_loss(self, bench: Bench, dry: DryRun, seed: int) -> None:
        """Power is lost at this moment: nothing survives that was not flushed, or whatever `seed` says."""
        for choose in (lose_all, random_choice(seed)):
            await bench.recover(choose, allowed=dry.allowed)

    async def look_around(self, bench: Bench, path: str, subjects: Set[int] = frozenset()) -> None:
        """The file at `path` is in trouble: everybody who has nothing to do with it is served."""
        for disk, device in list(bench.manager.devices.items()):
            if disk in subjects or disk == SPARE or not device.present or path in bench.files_of(disk):
                continue
            if device.suspended:
                await bench.manager.message(f"resume {disk}")
            # lines that are kept for a bad neighbour fill a ring of a few segments: its disks cannot be written to then
            crowded = not self.shape.roomy and device.cache is not None and path in backings_of(bench, device.cache_id)
            with within(OTHERS_PATIENCE, f"a request of disk {disk}, whose files are well,", disk):
                if not crowded:
                    await bench.write(disk, 14 * LINE, LINE)
                    await bench.write(disk, 5 * LINE + SECTOR, 2 * SECTOR)
                await bench.read(disk, 0, LINES * LINE)
                await bench.barrier(disk)
                await bench.read(disk, 13 * LINE, 2 * LINE)
        with within(1, "the control tree"):
            for cache in bench.manager.caches.values():
                assert cache.status_text() and cache.state
            for device in bench.manager.devices.values():
                assert device.state and device.entry()
            await bench.manager.message("switch_to 2")
            await bench.manager.message("clear_stat")
            for cache in bench.manager.caches.values():
                if cache.path != path and not cache.failed:
                    await cache.set_tunable("nr_max_batched_migration", cache.tunables["nr_max_batched_migration"])
        await self._attach_spare(bench, path)
        bench.audit()

    async def _attach_spare(self, bench: Bench, path: str) -> None:
        """A management operation on files that are well; only the table in the first image may have to wait."""
        spare = bench.device(SPARE)
        if spare.cache_id or not spare.present or path == spare.path:
            return
        try:
            with within(COMMIT_GIVEN_UP, "attaching a disk whose files are well", SPARE):
                await bench.attach(SPARE, 2)
        except (LcfsError, OSError) as exc:
            require_named(exc, "attach")
            if path not in (IMAGES[1], IMAGES[2]):
                raise Violation("R6", SPARE, 0, f"cannot be attached: {exc}") from exc

    async def see_that_all_is_well(self, bench: Bench, *, missing: Set[str] = frozenset()) -> None:
        """The disturbance is over. `missing` are the backings that it kept from being opened."""
        await trio.sleep(RECOVERY)
        bench.require_alive()
        for device in bench.manager.devices.values():
            bench.manager.resume(device)
        await bench.resolve()
        failed = {cache.id for cache in bench.manager.caches.values() if cache.failed}
        for number in bench.manager.caches.keys() - failed:
            await self._require_dropped(bench, number)
        for disk, device in bench.manager.devices.items():
            if device.missing:
                if disk != OTHER and device.path not in missing:
                    raise Violation("state", disk, 0, f"is {device.state}")
                continue
            if device.cache_id in failed or device.state.startswith("failed"):
                await require_latched(bench, disk)
                continue
            with within(OTHERS_PATIENCE, f"disk {disk}, after the fault,", disk):
                await bench.read(disk, 0, device.size)
                await bench.write(disk, 3 * LINE, 2 * LINE)
                await bench.barrier(disk)
                await bench.read(disk, 0, device.size)
            if device.state != "running":
                raise Violation("state", disk, 0, f"is {device.state} after the fault")
        bench.audit()

    async def _require_dropped(self, bench: Bench, number: int) -> None:
        """A cache that has not failed gets rid of all its dirty lines, but those of disks that are missing."""
        cache = bench.manager.caches[number]
        kept = sum(device.nr_dirty_caches for device in cache.attached_devices() if device.store is None)
        try:
            with within(OP_PATIENCE, f"drop_caches of cache {number}, after the fault,"):
                await cache.drop_caches()
        except Missing:
            if not kept:
                raise
        if cache.nr_dirty_caches != kept:
            raise Violation("R10", 0, 0, f"cache {number} has {cache.nr_dirty_caches} dirty lines after drop_caches")
        for device in cache.attached_devices():
            if device.store is not None:
                backing = bench.storage.media[bench.device(device.id).path].live.read(0, device.size)
                bench.model.check_read(device.id, 0, backing)
        if cache.state != "running":
            raise Violation("state", 0, 0, f"cache {number} is {cache.state} after the fault")

    async def judge_end(self, bench: Bench, allowed: tuple[Settings, ...], *, well: bool) -> None:
        """Shut down, where it is mounted; then power is lost. With `well`, only a failed cache is an excuse for errors."""
        if bench.mounted:
            bench.require_alive()
            settings = bench.settings()
            owners = (*bench.manager.caches.values(), *bench.manager.devices.values())
            failed = any(owner.state.startswith("failed") for owner in owners)
            excused = failed or not well
            barriers = [bench.model.begin_barrier(disk) for disk in bench.model.sizes]
            ending = await shut_down(bench)
            if ending.error is None:
                allowed = (settings,)
                for barrier in barriers:
                    barrier.done()
            elif not excused:
                raise Violation("shutdown", 0, 0, f"fails though the fault is over: {ending}") from ending.error
        if bench.storage.still_open():
            raise Violation("R7", 0, 0, f"{bench.storage.still_open()} are still held after the mount")
        for choose in (lose_all, keep_all):
            await bench.recover(choose, allowed=allowed)

    async def mount_again(self, bench: Bench) -> None:
        """The same files, without a loss of power; nothing is wrong with them now."""
        with within(OP_PATIENCE, "mounting after the fault"):
            await bench.start()
        with within(STOP_PATIENCE, "shutdown without a fault"):
            await bench.stop()


async def shut_down(bench: Bench) -> Ending:
    """Unmount, in time. Raises Violation."""
    try:
        with within(STOP_PATIENCE, "shutdown"):
            await bench.stop()
    except (LcfsError, OSError) as exc:
        require_named(exc, "shutdown")
        return Ending("error", exc)
    return Ending("ok")


def backings_of(bench: Bench, cache_id: int) -> set[str]:
    """Of the disks of a cache."""
    return {device.path for device in bench.manager.devices.values() if device.cache_id == cache_id}


def require_settled(bench: Bench, ending: Ending, dry: DryRun) -> None:
    """An operation that ended has done what it says, or nothing (R9). Raises Violation."""
    settings = bench.settings()
    if ending.how == "ok" and not settings.agrees(dry.after):
        raise Violation("R9", 0, 0, f"it ended well and left {settings}, not {dry.after}")
    if not any(settings.agrees(other) for other in dry.allowed):
        raise Violation("R9", 0, 0, f"{ending} left {settings}, not one of {dry.allowed}")


async def require_latched(bench: Bench, disk: int) -> None:
    """A cache, or a disk without one, that failed never acknowledges a barrier again. Raises Violation."""
    try:
        with within(OTHERS_PATIENCE, f"a barrier of disk {disk}, which has failed,", disk):
            await bench.barrier(disk)
    except (LcfsError, OSError) as exc:
        require_named(exc, "a barrier")
        return
    raise Violation("R1", disk, 0, "has failed and acknowledges a barrier")
