# SPDX-License-Identifier: GPL-2.0-or-later
"""The bounded crash explorer: short workloads, a crash at every I/O boundary, every way in which it can end.

A workload runs once. For each moment of it (`crash_points`) and each subset of what was not synced
(`survivals`) the engine recovers, and the oracle judges what the disks hold. The recovery is a run itself,
with moments at which it may crash; so is what is done after it. That is nested up to three deep.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import attrs
import trio

from lcfs.engine.errors import LcfsError
from lcfs.testing.crash_states import CrashPoint, crash_points, survivals
from lcfs.testing.log import Log
from lcfs.testing.memory import Medium
from lcfs.testing.model import Model, Violation
from lcfs.testing.stepper import make_deterministic
from lcfs.testing.steps import PRELUDES, STEPS
from lcfs.testing.world import Setup, World, make_media

DEEPEST = 3
NEST_SHARE = 0.02
"""Share of recoveries that are crashed themselves."""
FOLLOW_SHARE = 0.04
"""Share of recovered states in which work goes on, to be crashed again."""
TOO_LONG = 10_000.0
"""Seconds of the mock clock that a run may take."""
NESTED_POINTS = 6
"""Moments tried of a nested run, and states of each."""
NESTED_STATES = 4


@attrs.frozen
class Crash:
    """Power failed at moment `point` of the run before, and `survival` of its pending writes remained.

    Then, after recovery, `step` was done, unless it is empty; the next crash is in that, or in the recovery.
    """

    point: int
    survival: tuple[int, ...]
    step: str = ""


@attrs.frozen
class Script:
    """All it takes to come to a state again."""

    setup: Setup
    seed: int
    prelude: str
    steps: tuple[str, ...]
    crashes: tuple[Crash, ...] = ()


class Found(Exception):
    """A promise was broken: `script` leads there."""

    def __init__(self, script: Script, cause: BaseException) -> None:
        super().__init__(f"{cause}")
        self.script = script
        self.cause = cause


@attrs.frozen(eq=False)
class Run:
    """What happened: where it began, every call, and the oracle that watched."""

    media: Mapping[str, Medium]
    log: Log
    model: Model
    since: float = 0

    def points(self) -> list[CrashPoint]:
        """The moments at which it may crash."""
        return list(crash_points(self.media, self.log, self.since))


@attrs.frozen(eq=False)
class Recovered:
    """A state, after recovery and a clean stop."""

    contents: dict[int, bytes]
    caches: dict[int, int | None]
    log: Log


Key = tuple[object, ...]


class Explorer:
    """Explores workloads until `budget` recoveries have been judged."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.states = 0
        """Distinct states that the engine recovered from."""
        self.judged = 0
        """Verdicts; a state that occurs at several moments is recovered once and judged at each."""
        self.workloads = 0
        self._formatted: dict[Setup, dict[str, Medium]] = {}
        self._known: dict[Key, Recovered] = {}

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.states >= self.budget

    async def explore(self, script: Script) -> None:
        """Everything that can become of a workload. Raises Found."""
        self._known.clear()
        rng = random.Random(script.seed)
        run = await self.run(script)
        self.workloads += 1
        for number, point in enumerate(run.points()):
            for survival in survivals(point.pending, rng):
                if self.done:
                    return
                await self._visit(script, run, Crash(number, tuple(survival)), point, rng)

    async def run(self, script: Script) -> Run:
        """The workload itself, uncrashed; what it reads is checked on the way. Raises Found."""
        setup = script.setup
        if setup not in self._formatted:
            self._formatted[setup] = await make_media(setup)
        media = self._formatted[setup]
        model = Model()
        for disk, size in enumerate(setup.disks, 1):
            model.add_disk(disk, size, 1)
        make_deterministic(script.seed)
        try:
            with trio.fail_after(TOO_LONG):
                async with World(media, model, yields=True, nowait=script.seed % 2 == 0) as world:
                    await world.start()
                    await PRELUDES[script.prelude](world)
                    since = world.tick()
                    for step in script.steps:
                        await STEPS[step](world)
                    for disk, size in model.sizes.items():
                        await world.read(disk, 0, size)
                    log = world.log.carried_on()
        except Exception as exc:
            raise Found(script, exc) from exc
        return Run(media, log, model, since)

    async def _visit(self, script: Script, run: Run, crash: Crash, point: CrashPoint, rng: random.Random) -> None:
        script = attrs.evolve(script, crashes=(*script.crashes, crash))
        media = point.media(crash.survival)
        key = _key(media)
        found = self._known.get(key)
        new = found is None
        try:
            if found is None:
                found = self._known[key] = await self.recover(media, run.model)
            self.judged += 1
            run.model.check_recovered(found.contents, point.at)
            run.model.check_caches(found.caches, point.at)
        except Exception as exc:
            raise Found(script, exc) from exc
        if new and len(script.crashes) < DEEPEST:
            if rng.random() < NEST_SHARE:
                await self._nest(script, Run(media, found.log, self._settled(found)), rng)
            if rng.random() < FOLLOW_SHARE:
                last = attrs.evolve(crash, step=rng.choice(list(STEPS)))
                script = attrs.evolve(script, crashes=(*script.crashes[:-1], last))
                await self._nest(script, await self.follow(script, media, found, last.step), rng)

    async def _nest(self, script: Script, run: Run, rng: random.Random) -> None:
        points = run.points()
        for number in sorted(rng.sample(range(len(points)), min(NESTED_POINTS, len(points)))):
            choices = list(survivals(points[number].pending, rng))
            for survival in rng.sample(choices, min(NESTED_STATES, len(choices))):
                if self.done:
                    return
                await self._visit(script, run, Crash(number, tuple(survival)), points[number], rng)

    async def recover(self, media: Mapping[str, Medium], model: Model) -> Recovered:
        """Mount what a crash left, look at everything, stop cleanly."""
        self.states += 1
        with trio.fail_after(TOO_LONG):
            async with World(media, self._like(model)) as world:
                await world.start()
                contents, caches = await world.contents(), world.caches_of()
                world.audit()
        return Recovered(contents, caches, world.log)

    async def follow(self, script: Script, media: Mapping[str, Medium], found: Recovered, step: str) -> Run:
        """Recover and go on with one step. Raises Found."""
        model = self._settled(found)
        make_deterministic(script.seed)
        try:
            with trio.fail_after(TOO_LONG):
                async with World(media, model, yields=True) as world:
                    await world.start()
                    await STEPS[step](world)
                    await world.check()
                    log = world.log.carried_on()
        except Exception as exc:
            raise Found(script, exc) from exc
        return Run(media, log, model)

    def _like(self, model: Model) -> Model:
        fresh = Model()
        for disk, size in model.sizes.items():
            fresh.add_disk(disk, size, 1)
        return fresh

    def _settled(self, found: Recovered) -> Model:
        """The oracle of what is done after a recovery: its contents are the past, and durable."""
        model = Model()
        for disk, content in found.contents.items():
            model.add_disk(disk, len(content), found.caches[disk], content)
        return model


def _key(media: Mapping[str, Medium]) -> Key:
    return tuple((path, m.label, frozenset(m.durable.pages.items())) for path, m in media.items())


def scripts(seed: int, setups: Sequence[Setup]) -> Script:
    """The workload of a seed."""
    rng = random.Random(seed)
    length = rng.choice((1, 2, 2, 3, 3, 3))
    return Script(
        rng.choice(setups),
        seed,
        rng.choice(list(PRELUDES)),
        tuple(rng.choice(list(STEPS)) for _ in range(length)),
    )


__all__ = ["Crash", "Explorer", "Found", "LcfsError", "Script", "Violation", "scripts"]
