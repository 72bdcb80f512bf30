# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.simulation [ROUNDS=n] [SEED=s] [JOBS=j] [STRETCHES=k]`: lives of mounts, one per round.

Ends with 0 when none broke a promise. A life that did is told with its seed: ROUNDS=1 SEED=that makes it happen again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence

import attrs

from lcfs.testing.explore import in_trio
from tests.simulation.life import Life


@attrs.define
class Report:
    """What some lives came to."""

    rounds: int = 0
    operations: int = 0
    refused: int = 0
    crashes: int = 0
    days: float = 0.0
    findings: list[str] = attrs.field(factory=list)

    def add(self, other: Report) -> None:
        """Take over what another has."""
        self.rounds += other.rounds
        self.operations += other.operations
        self.refused += other.refused
        self.crashes += other.crashes
        self.days += other.days
        self.findings += other.findings

    def text(self) -> str:
        """For a person."""
        return (
            f"{self.rounds} lives, {self.operations} operations ({self.refused} refused, with a reason), "
            f"{self.crashes} crashes, {self.days:.0f} simulated days; {len(self.findings)} violations"
        )


def live(seed: int, stretches: int = 8) -> Report:
    """One life."""
    life = Life(seed, stretches)
    report = Report(1)
    try:
        in_trio(life.live)
    except Exception as exc:
        while isinstance(exc, ExceptionGroup):
            exc = exc.exceptions[0]
        told = "\n".join(life.told)
        report.findings.append(f"FOUND in the life with SEED={seed}:\n{told}\n{''.join(traceback.format_exception(exc))}")
    report.operations, report.refused, report.crashes, report.days = life.operations, life.refused, life.crashes, life.days
    return report


def live_all(rounds: int, seed: int, *, jobs: int = 1, stretches: int = 8) -> Report:
    """So many lives, with seeds from `seed` on."""
    total = Report()
    seeds = [(seed + number, stretches) for number in range(rounds)]
    if jobs == 1:
        for one in seeds:
            total.add(live(*one))
        return total
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for report in pool.starmap(live, seeds, chunksize=4):
            total.add(report)
    return total


def main(arguments: Sequence[str]) -> int:
    """The command."""
    settings = {"ROUNDS": "200", "SEED": "0", "JOBS": str(os.cpu_count() or 1), "STRETCHES": "8"}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in settings or not value.isdigit():
            print(f"simulation: {argument!r} is not ROUNDS=n, SEED=s, JOBS=j or STRETCHES=k", file=sys.stderr)
            return 2
        settings[name] = value
    rounds, seed, jobs, stretches = (int(settings[name]) for name in ("ROUNDS", "SEED", "JOBS", "STRETCHES"))
    report = live_all(rounds, seed, jobs=jobs, stretches=stretches)
    for finding in report.findings:
        print(finding)
    print(report.text())
    return 1 if report.findings else 0
