# SPDX-License-Identifier: GPL-2.0-or-later
"""One operation, cancelled at one of its checkpoints, or called off by message."""

from __future__ import annotations

import attrs

from lcfs.engine.errors import NoSuchThing
from lcfs.testing import Violation
from tests.faults.acts import Act
from tests.faults.bench import OP_PATIENCE, Attempt, Bench, Ending, attempted
from tests.faults.judge import Judge, require_settled

CALLED_OFF = {"attach": 4, "attach to another cache": 4, "detach": 1, "detach from another cache": 3}
CALLED_OFF |= {"remove": 1, "remove without cache": 4, "suspend": 1, "drop_caches": 1}
"""Operations that the message `cancel ID` calls off, and of which disk."""


@attrs.frozen
class CancelCase:
    """At the `step`th step of any task while the operation is under way it is cancelled; `message`: by `cancel ID`."""

    act: Act
    step: int
    message: bool = False

    @property
    def kind(self) -> str:
        """For the summary."""
        return "called off by message" if self.message else "cancelled"

    def __str__(self) -> str:
        return f"{self.act.name}: {self.kind} at step {self.step}"


async def cancel_cases(judge: Judge, act: Act) -> list[CancelCase]:
    """Every moment: after each step of a task, when that has come to its next checkpoint."""
    dry = await judge.dry_run(act)
    ways = (False, True) if act.name in CALLED_OFF else (False,)
    return [CancelCase(act, step, message) for message in ways for step in range(dry.steps)]


async def run_cancel(judge: Judge, case: CancelCase) -> Ending:
    """How the operation ended. Raises Violation, and whatever else goes wrong."""
    dry = await judge.dry_run(case.act)
    async with judge.prepared(case.act) as bench:

        def cancel(attempt: Attempt, step: int) -> None:
            if step == case.step:
                _cancel(bench, case, attempt)

        async with attempted(bench, case.act.do, on_step=cancel) as attempt:
            ending = await attempt.wait(OP_PATIENCE)
            if ending.how == "hung":
                raise Violation("R6", 1, 0, "the operation does not end though it was cancelled")
            if attempt.steps <= case.step:
                raise Violation("sweep", 0, 0, f"it ended after {attempt.steps} steps, before it was cancelled")
            await judge.judge_loss(bench, dry, judge.seed + case.step)
        if bench.mounted:
            require_settled(bench, ending, dry)
            await judge.look_around(bench, "")
            await judge.see_that_all_is_well(bench)
        await judge.judge_end(bench, dry.allowed, well=True)
        await judge.mount_again(bench)
    return ending


def _cancel(bench: Bench, case: CancelCase, attempt: Attempt) -> None:
    if case.message:
        try:
            bench.manager.cancel(CALLED_OFF[case.act.name])
        except NoSuchThing:
            attempt.scope.cancel()  # it has not begun, or is done: as good a moment as any
    elif case.act.mounts or case.act.stops:
        bench.scope.cancel()
    else:
        attempt.scope.cancel()
