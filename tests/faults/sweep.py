# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.faults.sweep [WHAT=faults|cancel] [SEED=s] [SHARE=n] [JOBS=j] [ONLY=text]`

Every operation, disturbed in every way: each call it makes goes wrong, or it is cancelled at each checkpoint. SHARE=10 runs
every tenth case, drawn by SEED; ONLY takes the cases whose line contains the text. Ends with 0 when nothing was found. A
finding begins with the line of its case: SEED and ONLY with that line make it happen again.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from lcfs.testing.explore import in_trio
from tests.faults.acts import ACTS, Act
from tests.faults.bench import Ending, Shape
from tests.faults.cancel_case import cancel_cases, run_cancel
from tests.faults.fault_case import fault_cases, run_fault
from tests.faults.judge import Judge

SHAPES = (Shape(4, 8), Shape(4, 4), Shape(8, 3))

Case = Any
"""A FaultCase or a CancelCase: it has an `act`, a `kind`, and a line that names it."""


@attrs.frozen
class Sweep:
    """A way to disturb operations."""

    cases: Callable[[Judge, Act], Awaitable[Sequence[Case]]]
    run: Callable[[Judge, Case], Awaitable[Ending]]


SWEEPS = {"faults": Sweep(fault_cases, run_fault), "cancel": Sweep(cancel_cases, run_cancel)}


@attrs.frozen
class Order:
    """What is to be run."""

    what: tuple[str, ...] = tuple(SWEEPS)
    seed: int = 0
    share: int = 1
    only: str = ""
    acts: tuple[str, ...] = tuple(ACTS)
    shapes: tuple[Shape, ...] = SHAPES
    job: int = 0
    jobs: int = 1


@attrs.define
class Report:
    """What was run and found."""

    cases: int = 0
    kinds: Counter[str] = attrs.field(factory=Counter)
    endings: Counter[str] = attrs.field(factory=Counter)
    findings: list[str] = attrs.field(factory=list)

    def add(self, other: Report) -> None:
        """Take over what another has."""
        self.cases += other.cases
        self.kinds += other.kinds
        self.endings += other.endings
        self.findings += other.findings

    def text(self) -> str:
        """For a person."""
        rows = [f"  {count:7} {kind}" for kind, count in sorted(self.kinds.items())]
        ends = ", ".join(f"{count} {how}" for how, count in sorted(self.endings.items()))
        head = f"{self.cases} cases of {len(ACTS)} operations, {len(self.findings)} violations; operations ended: {ends}"
        return "\n".join([head, *rows])


def run(order: Order) -> Report:
    """This job's part of the order."""
    report = Report()
    number = 0
    for shape in order.shapes:
        judge = Judge(shape, order.seed)
        for what in order.what:
            for act in map(ACTS.__getitem__, order.acts):
                try:
                    cases = in_trio(SWEEPS[what].cases, judge, act)
                except Exception as exc:
                    report.findings.append(describe(f"{act.name}: undisturbed; {shape}", exc))
                    continue
                rng = random.Random(f"{order.seed} {shape} {what} {act.name}")
                for case in rng.sample(cases, -(-len(cases) // order.share)):
                    line = f"{case}; {shape}, seed {order.seed}"
                    number += 1
                    if number % order.jobs == order.job and order.only in line:
                        _run_one(SWEEPS[what], judge, case, line, report)
    return report


def _run_one(sweep: Sweep, judge: Judge, case: Case, line: str, report: Report) -> None:
    report.cases += 1
    report.kinds[case.kind] += 1
    try:
        ending = in_trio(sweep.run, judge, case)
    except Exception as exc:
        report.findings.append(describe(line, exc))
    else:
        report.endings[ending.how] += 1


def describe(line: str, exc: BaseException) -> str:
    """A finding."""
    return f"FOUND {line}\n{''.join(traceback.format_exception(exc))}"


def run_side_by_side(order: Order, jobs: int) -> Report:
    """In so many processes."""
    orders = [attrs.evolve(order, job=job, jobs=jobs) for job in range(jobs)]
    total = Report()
    if jobs == 1:
        return run(order)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for report in pool.map(run, orders):
            total.add(report)
    return total


def main(arguments: Sequence[str]) -> int:
    """The command."""
    settings = {"WHAT": ",".join(SWEEPS), "SEED": "0", "SHARE": "1", "JOBS": str(os.cpu_count() or 1), "ONLY": ""}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in settings or (name == "WHAT" and not {*value.split(",")} <= SWEEPS.keys()):
            print(f"sweep: {argument!r} is not WHAT=faults|cancel, SEED=s, SHARE=n, JOBS=j or ONLY=text", file=sys.stderr)
            return 2
        settings[name] = value
    order = Order(tuple(settings["WHAT"].split(",")), int(settings["SEED"]), int(settings["SHARE"]), settings["ONLY"])
    report = run_side_by_side(order, int(settings["JOBS"]))
    for finding in report.findings:
        print(finding)
    print(report.text())
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
