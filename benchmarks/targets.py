# SPDX-License-Identifier: GPL-2.0-or-later
"""What lcfs wants to reach, each as a ratio measured in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from benchmarks.figure import Figure, Spread
from benchmarks.figures import disk_file

Figures = Mapping[str, Figure]


@attrs.frozen
class Target:
    """One line of the table."""

    what: str
    bound: float
    at_least: bool
    """Whether the measured value should be at least `bound`; else at most."""
    unit: str
    measured: Callable[[Figures], Spread | None]

    @property
    def wanted(self) -> str:
        """As a person writes it."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"

    def verdict(self, spread: Spread | None) -> str:
        """By the median; `not measured` where something needed is absent."""
        if spread is None:
            return "not measured"
        if spread.median >= self.bound if self.at_least else spread.median <= self.bound:
            return "met"
        share = spread.median / self.bound if self.at_least else self.bound / spread.median
        return f"short: {share:.0%} of it"


def ratio(what: str, bound: float, figure: str, load: str, to: str, *, ours: str = "lcfs", to_load: str = "") -> Target:
    """At least `bound` times what `to` reaches in the same round."""

    def measured(figures: Figures) -> Spread | None:
        return figures[figure].ratio(load, ours, to, to_load=to_load) if figure in figures else None

    return Target(what, bound, True, " x", measured)


def value(what: str, bound: float, unit: str, figure: str, load: str, row: str = "lcfs", *, at_least: bool = False) -> Target:
    """A value itself."""

    def measured(figures: Figures) -> Spread | None:
        return figures[figure].spread(row, load) if figure in figures else None

    return Target(what, bound, at_least, unit, measured)


WRITE, READ = disk_file.WRITE_32.name, disk_file.READ_32.name
SEQ_WRITE, SEQ_READ = disk_file.SEQUENTIAL_WRITE.name, disk_file.SEQUENTIAL_READ.name
BARRIER_1, BARRIER_16 = disk_file.BARRIER_1.name, disk_file.BARRIER_16.name

ALL: tuple[Target, ...] = (
    ratio("random 4 KiB write, qd 32, to qemu-storage-daemon", 2.0, "file", WRITE, "qemu"),
    ratio("random 4 KiB write, qd 32, to the drained floor", 0.8, "file", WRITE, "floor-drained"),
    ratio("random 4 KiB read of cached lines, qd 32, to qemu-storage-daemon", 2.0, "file", READ, "qemu"),
    ratio("random 4 KiB read of cached lines, qd 32, to the drained floor", 0.8, "file", READ, "floor-drained"),
    ratio("1 MiB sequential write, to qemu-storage-daemon", 0.8, "file", SEQ_WRITE, "qemu"),
    ratio("1 MiB sequential read, to qemu-storage-daemon", 1.0, "file", SEQ_READ, "qemu"),
    ratio("write + fdatasync, 1 job, to the file system itself", 0.7, "file", BARRIER_1, "raw"),
    ratio("write + fdatasync, 16 jobs, to 1 job", 3.0, "file", BARRIER_16, "lcfs", to_load=BARRIER_1),
)
