# SPDX-License-Identifier: GPL-2.0-or-later
"""One operation, and one call that it makes goes wrong, once or from then on for ever."""

from __future__ import annotations

import attrs

from lcfs.testing import Effect, Fault, Violation
from tests.faults.acts import Act
from tests.faults.bench import FRESH_DISK, FRESH_IMAGE, IMAGES, MOUNTED, OP_PATIENCE, Attempt, Bench, Ending, attempted
from tests.faults.judge import Judge, require_settled
from tests.faults.storage import CORRUPT, Kind, Spot, Trouble, troubles_of


@attrs.frozen
class FaultCase:
    """From the `number`th call at `spot` on, `times` calls (None: all) go wrong in one way."""

    act: Act
    spot: Spot
    number: int
    trouble: Trouble
    times: int | None

    @property
    def kind(self) -> str:
        """What goes wrong, for the summary."""
        return f"{self.spot.kind.value}: {self.trouble.name}, {'once' if self.times == 1 else 'for ever'}"

    def __str__(self) -> str:
        ever = "once" if self.times == 1 else "for ever"
        return f"{self.act.name}: {self.trouble.name} {ever}, from call {self.number} on of {self.spot}"


async def fault_cases(judge: Judge, act: Act) -> list[FaultCase]:
    """Every fault that the operation can meet: each of its calls, each way in which that can go wrong."""
    dry = await judge.dry_run(act)
    return [
        FaultCase(act, spot, number, trouble, times)
        for spot, count in dry.calls.items()
        for number in range(count)
        for trouble in troubles_of(spot)
        for times in (1, None)
        # while mounting, a wrong bit in the last record cannot be told from a torn one: no promise covers it
        if not (act.mounts and trouble is CORRUPT)
    ]


async def run_fault(judge: Judge, case: FaultCase) -> Ending:
    """How the operation ended. Raises Violation, and whatever else goes wrong."""
    dry = await judge.dry_run(case.act)
    path = case.spot.path
    async with judge.prepared(case.act) as bench:
        bench.rot = case.spot.kind is Kind.READ and path in IMAGES.values() and case.times is None
        fault = bench.storage.spoil(case.spot, case.trouble, skip=case.number, times=case.times)
        async with attempted(bench, case.act.do) as attempt:
            ending = await attempt.wait(OP_PATIENCE)
            if ending.how == "hung" and case.trouble.effect is not Effect.HANG:
                raise Violation("R6", 1, 0, "the operation waits for ever, though no call hangs")
            await judge.judge_loss(bench, dry, judge.seed)
            if bench.mounted:
                await bench.resolve()
                require_settled(bench, ending, dry)
                await judge.look_around(bench, path, case.act.subjects)
                if ending.how != "hung":
                    require_visible(bench, case, fault)
                await judge.judge_loss(bench, dry, judge.seed + 1)
            elif ending.how == "error" and case.spot.kind is not Kind.REMOVE:
                require_nothing_created(bench, ending)
            if not fault.met:
                raise Violation("sweep", 0, 0, "the fault was never met")
            if case.times == 1:
                fault.release()
                await require_ended(attempt)
        if case.times == 1 and bench.mounted:
            opened = case.act.mounts or case.spot.kind in (Kind.OPEN, Kind.LABEL)
            await judge.see_that_all_is_well(bench, missing={path} if opened else set())
        await judge.judge_end(bench, dry.allowed, well=case.times == 1 and case.trouble is not CORRUPT)
        fault.release()
        await judge.mount_again(bench)
    return ending


async def require_ended(attempt: Attempt) -> None:
    """What hung goes on when the fault is over. Raises Violation."""
    ending = await attempt.wait(OP_PATIENCE)
    if ending.how == "hung":
        raise Violation("R6", 1, 0, "the operation still waits, though the fault is over")


def require_nothing_created(bench: Bench, ending: Ending) -> None:
    """A refused mount leaves no trace. Raises Violation."""
    for path in (FRESH_IMAGE, FRESH_DISK):
        if bench.storage.exists(path):
            raise Violation("R9", 0, 0, f"a mount that was refused ({ending}) left {path}")


def require_visible(bench: Bench, case: FaultCase, fault: Fault) -> None:
    """An image that refuses writes or flushes for ever shows in `state`. Raises Violation."""
    refuses = case.spot.kind in (Kind.WRITE, Kind.FLUSH) and case.trouble.effect is not Effect.HANG
    if not refuses or case.times == 1 or fault.met < 3:
        return
    for number in MOUNTED:
        cache = bench.manager.caches.get(number)
        if cache is not None and cache.path == case.spot.path and cache.state == "running":
            raise Violation("state", 0, 0, f"cache {number} is running, though nothing can be written to its image")
