# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured: samples of each contestant under each load, one per round, and their ratios.

Rounds are interleaved: within a round every contestant has its turn at a load before the next load comes. A machine
that others use too is slow for all of them alike, so a ratio is taken within a round, and it is the ratios that count.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import attrs


@attrs.frozen
class Spread:
    """A median between the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@attrs.define
class Figure:
    """A table of samples, drawn as one SVG."""

    name: str
    """File name of its SVG."""
    title: str
    how: str
    """One paragraph: what was done."""
    units: dict[str, str] = attrs.field(factory=dict)
    """Load -> unit, in the order of the report."""
    samples: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)
    """Contestant -> load -> a value per round."""
    cpu: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)
    """The same for microseconds of the server's processor time per request."""
    notes: list[str] = attrs.field(factory=list)
    absent: dict[str, str] = attrs.field(factory=dict)
    """Contestant -> why it did not take part."""

    def add(self, contestant: str, load: str, unit: str, value: float, cpu_us: float | None = None) -> None:
        """One sample."""
        self.units.setdefault(load, unit)
        self.samples.setdefault(contestant, {}).setdefault(load, []).append(value)
        if cpu_us is not None:
            self.cpu.setdefault(contestant, {}).setdefault(load, []).append(cpu_us)

    def values(self, contestant: str, load: str) -> list[float]:
        """The samples; none where the contestant had no part."""
        return self.samples.get(contestant, {}).get(load, [])

    def spread(self, contestant: str, load: str) -> Spread | None:
        """Of the samples."""
        values = self.values(contestant, load)
        return Spread.of(values) if values else None

    def ratio(self, load: str, contestant: str, to: str, *, to_load: str = "") -> Spread | None:
        """Of one contestant to another, round by round; None where either had no part."""
        ours, theirs = self.values(contestant, load), self.values(to, to_load or load)
        pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other]
        return Spread.of(pairs) if pairs else None


def rotated(items: Iterable[str], turns: int) -> list[str]:
    """Another one begins in each round, so that nobody always comes after the same one."""
    names = list(items)
    turns %= max(1, len(names))
    return names[turns:] + names[:turns]
