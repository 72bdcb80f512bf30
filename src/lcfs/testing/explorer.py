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

from lcfs.testing.crash_states import CrashPoint, crash_points, survivals
from lcfs.testing.log import Log
from lcfs.testing.memory import Medium
from lcfs.testing.model import Model
from lcfs.testing.stepper import make_deterministic
from lcfs.testing.steps import PRELUDES, STEPS
from lcfs.testing.world import Setup, World, disk_path, make_media

DEEPEST = 3
NESTED_POINTS = 6
"""Moments tried of a nested run, and states of each."""
NESTED_STATES = 4
LOOKS = 4
"""Of so many states all but one are looked at through a read-only mount. What is recovered is the same, and beginning a
generation, with its daemons, takes a third of the time."""
TOO_LONG = 10_000.0
"""Seconds of the mock clock that a run may take."""
MOMENT = 0.01
"""Seconds in which the daemons write what is ready to be written."""
SETUPS = (
    Setup(),
    Setup(nr_segments=3),
    Setup(nr_segments=2, blocks_per_segment=8),
    Setup(nr_segments=5, blocks_per_segment=2),
    Setup(nr_segments=8, blocks_per_segment=3),
    Setup(nr_caches=2),
    Setup(dear=True),
    Setup(nr_segments=8, blocks_per_segment=3, dear=True),
)


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

    def __init__(self, script: Script, cause: Exception) -> None:
        while isinstance(cause, ExceptionGroup):
            # of several that fell together the first tells most
            cause = cause.exceptions[0]
        super().__init__(str(cause))
        self.script = script
        self.cause = cause

    @property
    def kind(self) -> str:
        """What was broken, without the place: two findings of one kind have likely one cause."""
        return f"{type(self.cause).__name__} {getattr(self.cause, 'promise', '')}".strip()


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
    """Empty where it was not stopped."""


Key = tuple[object, ...]


@attrs.define(eq=False)
class Explorer:
    """Explores workloads until `budget` states have been judged."""

    budget: int
    nest_share: float = 0.02
    """Share of recoveries that are crashed themselves."""
    follow_share: float = 0.04
    """Share of recovered states in which work goes on, to be crashed again."""
    follow_steps: Sequence[str] = tuple(STEPS)
    states: int = 0
    """Crash states judged: a moment of a run, and what survived of its pending writes."""
    recovered: int = 0
    """Distinct contents of the media among them. The engine recovers from each once, and the oracle judges what it found
    at every moment at which it occurs, by what was promised at that moment."""
    workloads: int = 0
    _formatted: dict[Setup, dict[str, Medium]] = attrs.field(factory=dict)
    _known: dict[Key, Recovered] = attrs.field(factory=dict)

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

    async def replay(self, script: Script) -> list[CrashPoint]:
        """Exactly one state; the moments of its crashes. Raises Found."""
        way: list[CrashPoint] = []
        run = await self.run(attrs.evolve(script, crashes=()))
        for crash in script.crashes:
            way.append(run.points()[crash.point])
            run = await self.after(script, run, crash)
        return way

    async def after(self, script: Script, run: Run, crash: Crash) -> Run:
        """What came after one crash of `run`: the recovery, and the step done then. Raises Found."""
        point = run.points()[crash.point]
        media = point.media(crash.survival)
        found = await self._judge(script, run, point, media, stops=True)
        if crash.step:
            return await self.follow(script, media, found, crash.step, run.model.sizes)
        return Run(media, found.log, settled(found, media, run.model.sizes))

    async def run(self, script: Script) -> Run:
        """The workload itself, uncrashed; what it reads is checked on the way. Raises Found."""
        setup = script.setup
        if setup not in self._formatted:
            self._formatted[setup] = await make_media(setup)
        media = self._formatted[setup]
        model = setup.model()
        make_deterministic(script.seed)
        try:
            with trio.fail_after(TOO_LONG):
                async with World(media, model, yields=True, nowait=script.seed % 2 == 0, dear=setup.dear) as world:
                    await world.start()
                    await PRELUDES[script.prelude](world)
                    since = world.tick()
                    for step in script.steps:
                        await STEPS[step](world)
                        await self._let_daemons_run(script)
                    await self._end(script, world)
                    log = world.log.carried_on()
        except Exception as exc:
            raise Found(script, exc) from exc
        return Run(media, log, model, since)

    async def _let_daemons_run(self, script: Script) -> None:
        """Half of the workloads give the log time to be written between two steps, the others do not."""
        if script.seed // 2 % 2:
            await trio.sleep(MOMENT)

    async def _end(self, script: Script, world: World) -> None:
        """What was acknowledged is written; in half of the workloads it is made durable too."""
        await trio.sleep(MOMENT)
        if script.seed // 4 % 2:
            for disk in world.model.sizes:
                await world.barrier(disk)
        await world.check()

    async def follow(
        self, script: Script, media: Mapping[str, Medium], found: Recovered, step: str, sizes: Mapping[int, int]
    ) -> Run:
        """Recover and go on with one step. Raises Found."""
        model = settled(found, media, sizes)
        make_deterministic(script.seed)
        try:
            with trio.fail_after(TOO_LONG):
                async with World(media, model, yields=True, dear=script.setup.dear) as world:
                    await world.start()
                    await STEPS[step](world)
                    await self._end(script, world)
                    log = world.log.carried_on()
        except Exception as exc:
            raise Found(script, exc) from exc
        return Run(media, log, model)

    async def recover(self, media: Mapping[str, Medium], disks: Mapping[int, int], *, stops: bool) -> Recovered:
        """Mount what a crash left and look at everything; then stop cleanly, or die again."""
        self.recovered += 1
        nobody = Model()
        for disk, size in disks.items():
            nobody.add_disk(disk, size, None)  # only so that it is known which disks there may be
        with trio.fail_after(TOO_LONG):
            async with World(media, nobody, logged=stops) as world:
                looks = not stops and self.recovered % LOOKS != 0
                await world.start(doomed=not stops, readonly=looks)
                contents, caches = await world.contents(), world.caches_of()
                world.audit()
        return Recovered(contents, caches, world.log)

    async def _visit(self, script: Script, run: Run, crash: Crash, point: CrashPoint, rng: random.Random) -> None:
        script = attrs.evolve(script, crashes=(*script.crashes, crash))
        media = point.media(crash.survival)
        key: Key = tuple((path, m.label, frozenset(m.durable.pages.items())) for path, m in media.items())
        known = self._known.get(key)
        goes_on = known is None and len(script.crashes) < DEEPEST
        nests = goes_on and rng.random() < self.nest_share
        follows = goes_on and rng.random() < self.follow_share
        found = self._known[key] = await self._judge(script, run, point, media, known, stops=nests)
        if nests:
            await self._nest(script, Run(media, found.log, settled(found, media, run.model.sizes)), rng)
        if follows:
            last = attrs.evolve(crash, step=rng.choice(self.follow_steps))
            script = attrs.evolve(script, crashes=(*script.crashes[:-1], last))
            await self._nest(script, await self.follow(script, media, found, last.step, run.model.sizes), rng)

    async def _judge(
        self,
        script: Script,
        run: Run,
        point: CrashPoint,
        media: Mapping[str, Medium],
        known: Recovered | None = None,
        *,
        stops: bool,
    ) -> Recovered:
        try:
            found = known or await self.recover(media, run.model.sizes, stops=stops)
            self.states += 1
            run.model.check_recovered(found.contents, point.at)
            run.model.check_caches(found.caches, point.at)
        except Exception as exc:
            raise Found(script, exc) from exc
        return found

    async def _nest(self, script: Script, run: Run, rng: random.Random) -> None:
        points = run.points()
        for number in sorted(rng.sample(range(len(points)), min(NESTED_POINTS, len(points)))):
            choices = list(survivals(points[number].pending, rng))
            for survival in rng.sample(choices, min(NESTED_STATES, len(choices))):
                if self.done:
                    return
                await self._visit(script, run, Crash(number, tuple(survival)), points[number], rng)


def settled(found: Recovered, media: Mapping[str, Medium], sizes: Mapping[int, int]) -> Model:
    """The oracle of what is done after a recovery: its contents are the past, and durable."""
    model = Model()
    for disk, cache in found.caches.items():
        content = found.contents.get(disk)
        if content is None and disk_path(disk) in media:
            # a removed disk leaves its backing behind, and may be created on it again
            content = media[disk_path(disk)].durable.read(0, sizes[disk])
        model.add_disk(disk, sizes[disk], cache, content)
    return model


def script_of(seed: int) -> Script:
    """The workload of a seed: one, two or three steps after one of the preludes."""
    rng = random.Random(seed)
    length = rng.choice((1, 2, 2, 3, 3, 3))
    steps = tuple(rng.choice(list(STEPS)) for _ in range(length))
    return Script(rng.choice(SETUPS), seed, rng.choice(list(PRELUDES)), steps)
