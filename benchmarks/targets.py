# SPDX-License-Identifier: GPL-2.0-or-later
"""What lcfs wants to reach, each as a ratio measured in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from benchmarks.bench import GIB
from benchmarks.figure import Figure, Spread
from benchmarks.figures import disk_file, drain, idle, latency, limited, memory, slow, start

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
_PER_LINE = f"{memory.PER_LINE}, {memory.label(GIB)}"
_PER_TABLE_LINE = f"{memory.PER_LINE}, {memory.label(100 * GIB)}"
BARRIER_1, BARRIER_16 = disk_file.BARRIER_1.name, disk_file.BARRIER_16.name


def _beside(figures: Figures) -> Spread | None:
    """p99 of a reader beside a writer, to its p99 alone."""
    figure = figures.get("latency")
    return figure.ratio(latency.BESIDE, "lcfs", "lcfs", to_load=latency.ALONE) if figure is not None else None


def _drained(figures: Figures) -> Spread | None:
    figure = figures.get("drain")
    return figure.ratio(drain.DRAIN, drain.LCFS, drain.ONE_BY_ONE) if figure is not None else None


def _growth(what: str) -> Callable[[Figures], Spread | None]:
    """What the largest size takes, to the smallest."""

    def measured(figures: Figures) -> Spread | None:
        figure = figures.get("start")
        largest, smallest = start.label(what, start.SIZES[-1]), start.label(what, start.SIZES[0])
        return figure.ratio(largest, "lcfs", "lcfs", to_load=smallest) if figure is not None else None

    return measured


def _base(figures: Figures) -> Spread | None:
    figure = figures.get("memory")
    return figure.spread(memory.MOUNT, f"{memory.BASE}, {memory.label(GIB)}") if figure is not None else None


ALL: tuple[Target, ...] = (
    ratio("random 4 KiB write, qd 32, to qemu-storage-daemon", 2.0, "file", WRITE, "qemu"),
    ratio("random 4 KiB write, qd 32, to the drained floor", 0.8, "file", WRITE, "floor-drained"),
    ratio("random 4 KiB read of cached lines, qd 32, to qemu-storage-daemon", 2.0, "file", READ, "qemu"),
    ratio("random 4 KiB read of cached lines, qd 32, to the drained floor", 0.8, "file", READ, "floor-drained"),
    ratio("1 MiB sequential write, to qemu-storage-daemon", 0.8, "file", SEQ_WRITE, "qemu"),
    ratio("1 MiB sequential read, to qemu-storage-daemon", 1.0, "file", SEQ_READ, "qemu"),
    ratio("write + fdatasync, 1 job, to the file system itself", 0.7, "file", BARRIER_1, "raw"),
    ratio("write + fdatasync, 16 jobs, to 1 job, on the file", 3.0, "file", BARRIER_16, "lcfs", to_load=BARRIER_1),
    ratio("the same, through losetup --direct-io=on", 3.0, "loop-direct", BARRIER_16, "lcfs", to_load=BARRIER_1),
    *(
        ratio(
            f"limited SSD, {rate} MB/s: random writes, to its sequential bandwidth",
            0.97,
            "limited",
            limited.load_name(rate),
            limited.SSD_SEQUENTIAL,
            ours=limited.LCFS_RANDOM,
        )
        for rate in limited.RATES
    ),
    ratio("slow disk: random writes with room, to the disk alone", 200, "slow", slow.ROOM.name, "raw"),
    ratio("slow disk: random writes once the cache is full, to the disk alone", 3, "slow", slow.FULL.name, "raw"),
    ratio("slow disk: unpacking a source tree, to the disk alone", 5, "slow", slow.UNPACK, "raw"),
    ratio("slow disk: SQLite inserts, to the disk alone", 20, "slow", slow.INSERT, "raw"),
    Target("reader beside a writer and migration: p99, to its p99 alone", 10, False, " x", _beside),
    value("idle: processor time", 0.5, " % of a core", "idle", idle.CPU),
    value("idle: wake-ups", 1, " per second", "idle", idle.WAKEUPS),
    value("idle: written", 0, " bytes", "idle", idle.WRITTEN),
    Target("memory with nothing cached", 80, False, " MiB", _base),
    value("memory per cached line, 1 GiB", 24, " bytes", "memory", _PER_LINE, memory.MOUNT),
    value("memory per line of the tables, 100 GiB", 24, " bytes", "memory", _PER_TABLE_LINE, memory.TABLES),
    value("mount of 100 GiB with 64 dirty segments", 2, " s", "start", start.label(start.MOUNT, 100 * GIB)),
    value("format of 1 TiB", 1, " s", "start", start.label(start.FORMAT, 1024 * GIB)),
    Target("growth of mount from 1 GiB to 1 TiB", 1.5, False, " x", _growth(start.MOUNT)),
    Target("growth of format from 1 GiB to 1 TiB", 1.5, False, " x", _growth(start.FORMAT)),
    Target("draining a randomly filled cache, to one write per line", 0.2, False, " x", _drained),
)
