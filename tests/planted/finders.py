# SPDX-License-Identifier: GPL-2.0-or-later
"""The checkers that are to find planted bugs. Each has a budget, and tells what it found and after how much."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import attrs

from lcfs.testing.explore import WORKLOADS_PER_SEED, in_trio
from lcfs.testing.explorer import Explorer, Found, Script, script_of
from lcfs.testing.world import Setup
from tests.faults.sweep import SHAPES, Order, run
from tests.planted.costs import count_costs
from tests.planted.rot import Rot

WAYS = (0, 2, 7)
"""What the lowest bits of a seed decide: reads at once, time for the daemons between steps, a barrier at the end."""
BRIEF = 400
"""Crash states of a brief look."""
VIOLATION = re.compile(r"Violation: (\w+):")


@attrs.frozen
class Finding:
    """What gave the bug away."""

    kind: str
    """`Violation R1`, or the name of the error."""
    after: int
    """Crash states, cases or images it took."""
    text: str


class Finder(ABC):
    """A checker with a budget."""

    unit: str
    """What `after` counts."""
    drawn = False
    """Whether all it looks at is drawn at random."""

    @abstractmethod
    def look(self, *, briefly: bool = False) -> Finding | None:
        """What it finds within its budget; `briefly`, a small part of it."""

    @abstractmethod
    def name(self) -> str:
        """For the table."""


@attrs.frozen
class Exploration(Finder):
    """The crash explorer on workloads drawn from `seed`, as `make crash` runs it.

    With `steps` the first workload is these, in each small world in turn: for bugs that only a rare course of events
    shows. The others come behind it.
    """

    budget: int = 30_000
    seed: int = 1
    steps: tuple[str, ...] = ()
    prelude: str = "nothing"
    unit = "crash states"

    def name(self) -> str:
        return f"explorer: {', '.join(self.steps)}" if self.steps else "explorer"

    @property
    def drawn(self) -> bool:  # type: ignore[override]
        return not self.steps

    def look(self, *, briefly: bool = False) -> Finding | None:
        return in_trio(self._look, BRIEF if briefly else self.budget)

    async def _look(self, budget: int) -> Finding | None:
        explorer = Explorer(budget)
        number = self.seed * WORKLOADS_PER_SEED
        for script in self._scripts(number):
            try:
                await explorer.explore(script)
            except Found as found:
                return Finding(found.kind, explorer.states, str(found))
            if explorer.done:
                return None
        while not explorer.done:
            try:
                await explorer.explore(script_of(number))
            except Found as found:
                return Finding(found.kind, explorer.states, str(found))
            number += 1
        return None

    def _scripts(self, number: int) -> list[Script]:
        if not self.steps:
            return []
        setups = (Setup(), Setup(nr_segments=3), Setup(nr_segments=2, blocks_per_segment=8))
        return [
            Script(setup, number + 8 * i + ways, self.prelude, self.steps) for i, setup in enumerate(setups) for ways in WAYS
        ]


@attrs.frozen
class Sweep(Finder):
    """The fault sweep, the cases of one operation."""

    only: str
    what: str = "faults"
    unit = "cases"

    def name(self) -> str:
        return f"{self.what} sweep: {self.only}"

    def look(self, *, briefly: bool = False) -> Finding | None:
        act = self.only.partition(":")[0]
        report = run(Order(what=(self.what,), only=self.only, acts=(act,), shapes=SHAPES[:1]))
        if not report.findings:
            return None
        text = report.findings[0]
        told = VIOLATION.search(text)
        return Finding(f"Violation {told[1]}" if told else "another error", report.cases, text)


@attrs.frozen
class RotFinder(Finder):
    """One bit flipped in each block of an image, and everything read."""

    unit = "images"

    def name(self) -> str:
        return "bit rot"

    def look(self, *, briefly: bool = False) -> Finding | None:
        rot = Rot()
        try:
            in_trio(rot.look_everywhere)
        except Exception as exc:
            return Finding(f"{type(exc).__name__} {getattr(exc, 'promise', '')}".strip(), rot.images, str(exc))
        return None


@attrs.frozen
class CostFinder(Finder):
    """What barriers cost: segments and bytes of log."""

    unit = "barriers"

    def name(self) -> str:
        return "costs"

    def look(self, *, briefly: bool = False) -> Finding | None:
        finding: tuple[int, str] | None = in_trio(count_costs)
        return None if finding is None else Finding("Violation cost", *finding)
