# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m lcfs.testing.explore [STATES=n] [SEED=s] [JOBS=j]`: explore crashes, on all cores.

Ends with 0 when STATES crash states were judged and none broke a promise; with 1 after findings, each shrunk to a
script that `REPLAY=script` repeats. A crash state is a moment of a run, and what survived of the writes that were not
synced then. Media of equal content are recovered from once, and judged at each moment at which they occur.
"""

from __future__ import annotations

import ast
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, TypeVarTuple

import attrs
import trio
import trio.testing

from lcfs.testing.explorer import Crash, Explorer, Found, Script, script_of
from lcfs.testing.shrink import narrate, shrink
from lcfs.testing.world import Setup

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MOST_FINDINGS = 5
"""Kinds of findings after which a job gives up."""
WORKLOADS_PER_SEED = 1 << 32


@attrs.frozen
class Report:
    """What one job has seen."""

    states: int
    recovered: int
    workloads: int
    seconds: float
    """Of processor time."""
    findings: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """The command."""
    settings = {"STATES": "100000", "SEED": "0", "JOBS": str(os.cpu_count() or 1), "REPLAY": ""}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in settings:
            print(f"explore: {argument!r} is not STATES=n, SEED=s, JOBS=j or REPLAY=script", file=sys.stderr)
            return 2
        settings[name] = value
    if settings["REPLAY"]:
        return 1 if in_trio(_replay, parse_script(settings["REPLAY"])) else 0
    states, seed, jobs = int(settings["STATES"]), int(settings["SEED"]), int(settings["JOBS"])
    shares = [(states * (i + 1) // jobs - states * i // jobs, seed * WORKLOADS_PER_SEED + i, jobs) for i in range(jobs)]
    if jobs == 1:
        reports = [_job(shares[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            reports = pool.map(_job, shares)
    findings = [finding for report in reports for finding in report.findings]
    for finding in findings:
        print(finding)
    done = sum(report.states for report in reports)
    rate = sum(report.states / report.seconds for report in reports) / jobs
    print(
        f"{done} crash states of {sum(report.workloads for report in reports)} workloads judged, "
        f"{sum(report.recovered for report in reports)} recoveries from different contents, {len(findings)} violations; "
        f"{rate:.0f} states per second of a core; seed {seed}"
    )
    return 1 if findings else 0


def parse_script(text: str) -> Script:
    """A script from its `repr`."""
    makers: dict[str, Callable[..., object]] = {"Script": Script, "Setup": Setup, "Crash": Crash}

    def build(node: ast.expr) -> object:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return makers[node.func.id](**{word.arg or "": build(word.value) for word in node.keywords})
        if isinstance(node, ast.Tuple):
            return tuple(build(item) for item in node.elts)
        value: object = ast.literal_eval(node)
        return value

    script = build(ast.parse(text, mode="eval").body)
    if not isinstance(script, Script):
        raise ValueError(f"{text[:80]!r} is not a script as the explorer prints it")
    return script


def _job(share: tuple[int, int, int]) -> Report:
    return in_trio(_explore, *share)


def in_trio(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run it on a mock clock, with nothing logged: a recovery has a lot to say of torn records."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return trio.run(function, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.disable(before)


async def _explore(states: int, first: int, stride: int) -> Report:
    explorer = Explorer(states)
    findings: dict[str, str] = {}
    began = time.process_time()
    seed = first
    while not explorer.done and len(findings) < MOST_FINDINGS:
        try:
            await explorer.explore(script_of(seed))
        except Found as found:
            if found.kind not in findings:
                findings[found.kind] = await _describe(await shrink(found))
        seed += stride
    seconds = time.process_time() - began
    return Report(explorer.states, explorer.recovered, explorer.workloads, seconds, tuple(findings.values()))


async def _replay(script: Script) -> bool:
    try:
        await Explorer(0).replay(script)
    except Found as found:
        print(await _describe(found))
        return True
    print("no violation")
    return False


async def _describe(found: Found) -> str:
    cause = found.cause
    where = "".join(traceback.format_exception(cause, limit=-4, chain=False))
    return f"VIOLATION {cause}\n{await narrate(found.script)}\n{where}REPLAY={str(found.script)!r}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
