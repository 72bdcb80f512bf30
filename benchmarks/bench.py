# SPDX-License-Identifier: GPL-2.0-or-later
"""What every figure is given: how large, how long, where, and who takes part."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks import contestants, fio
from benchmarks.contestants import Contestant, Disk, Site
from benchmarks.figure import Figure, rotated
from benchmarks.fio import Load
from benchmarks.machine import cpu_seconds
from benchmarks.storage import written_file

MIB = 1 << 20
GIB = 1 << 30


@attrs.frozen
class Scale:
    """How large and how long: for numbers, or only to see that everything works."""

    name: str
    rounds: int
    few_rounds: int
    """Of the measurements that take long."""
    seconds: float
    """Per load and contestant."""
    disk: int
    cache: int
    """Bytes of a cache image: large enough for the writes of a round."""
    region: int
    """Bytes that are read: written anew in each round, so that they are cached."""
    sequential: int
    """Bytes written at most by a sequential load."""

    def with_rounds(self, rounds: int) -> Scale:
        """The same with another number of rounds."""
        return attrs.evolve(self, rounds=rounds, few_rounds=rounds)


FULL = Scale("full", rounds=3, few_rounds=2, seconds=1.0, disk=GIB, cache=2 * GIB, region=256 * MIB, sequential=768 * MIB)
QUICK = Scale(
    "quick", rounds=1, few_rounds=1, seconds=0.2, disk=64 * MIB, cache=128 * MIB, region=16 * MIB, sequential=48 * MIB
)


@attrs.frozen
class Bench:
    """One run of the harness."""

    scale: Scale
    directory: Path
    """Where everything is that is measured."""
    only: frozenset[str]
    """Contestants to measure; empty: all."""
    started: float = attrs.field(factory=time.monotonic)

    @property
    def quick(self) -> bool:
        """Whether numbers do not matter."""
        return self.scale.name == QUICK.name

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=sys.stderr, flush=True)

    def site(self, contestant: Contestant, *, disk: int = 0, cache: int = 0) -> Site:
        """A place for a contestant, its files written."""
        disk, cache = disk or self.scale.disk, cache or self.scale.cache
        place = self.fresh(contestant.name)
        backing, image = place / "disk.img", place / "ssd.img"
        if contestant.keeps:
            written_file(backing, disk)
        if contestant.has_cache:
            written_file(image, cache)
        return Site(place, backing, disk, image, cache)

    def fresh(self, name: str) -> Path:
        """An empty directory."""
        place = self.directory / name
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        return place

    def taking_part(self, names: Sequence[str], figure: Figure) -> list[Contestant]:
        """Those of `names` that are here; the others are noted as absent."""
        found = []
        for contestant in contestants.ALL:
            if contestant.name not in names or (self.only and contestant.name not in self.only):
                continue
            reason = contestant.why_absent()
            if reason:
                figure.absent[contestant.name] = reason
            else:
                found.append(contestant)
        return found

    @contextlib.contextmanager
    def serving(self, names: Sequence[str], figure: Figure) -> Iterator[dict[str, Disk]]:
        """Those of `names` that are here, all in service at once, their disks written full."""
        with contextlib.ExitStack() as stack:
            disks: dict[str, Disk] = {}
            for contestant in self.taking_part(names, figure):
                site = self.site(contestant)
                stack.callback(shutil.rmtree, site.place)
                disks[contestant.name] = disk = stack.enter_context(contestant.serve(site))
                # a log goes round its image: once before anything is measured
                laps = -(-site.cache_size // site.size) if contestant.has_cache else 1
                for _ in range(laps if contestant.keeps else 0):
                    fio.fill(disk.path, site.size)
                    disk.settle()
            yield disks


def measure_round(
    figure: Figure,
    disks: Mapping[str, Disk],
    loads: Sequence[Load],
    scale: Scale,
    turn: int,
    *,
    region: int,
    paths: Mapping[str, str] | None = None,
) -> None:
    """One turn of every contestant at every load. `paths` are what to run on where that is not the disk file."""
    for load in loads:
        for name in rotated(disks, turn):
            disk = disks[name]
            path = paths[name] if paths is not None else disk.path
            before = cpu_seconds(disk.pids)
            outcome = fio.apply(
                load, path, region=region, seconds=scale.seconds, most=scale.sequential if load.is_sequential else 0
            )
            used = cpu_seconds(disk.pids) - before
            figure.add(name, load.name, load.unit, outcome.rate, used / outcome.requests * 1e6 if disk.pids else None)
            if load.writes:
                disk.settle()
