# SPDX-License-Identifier: GPL-2.0-or-later
"""From a finding to the shortest script that still shows it, and to words."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lcfs.testing.crash_states import CrashPoint
from lcfs.testing.explorer import SETUPS, Crash, Explorer, Found, Script
from lcfs.testing.unsynced import ALL

BUDGET = 3000
"""States spent on each attempt to find the same with less."""


async def shrink(found: Found) -> Found:
    """A finding of the same kind with fewer steps and a simpler crash."""
    best = found
    improved = True
    while improved:
        improved = False
        for simpler in _simpler(best.script):
            again = await _search(simpler, best)
            if again is not None:
                best, improved = again, True
                break
    return await _simplify_survival(best)


def _simpler(script: Script) -> Iterator[Script]:
    bare = attrs.evolve(script, crashes=())
    for i in range(len(script.steps)):
        yield attrs.evolve(bare, steps=script.steps[:i] + script.steps[i + 1 :])
    if script.prelude != "nothing":
        yield attrs.evolve(bare, prelude="nothing")
    if script.setup != SETUPS[0]:
        yield attrs.evolve(bare, setup=SETUPS[0])


async def _search(script: Script, like: Found) -> Found | None:
    follows = [crash.step for crash in like.script.crashes if crash.step]
    deep = len(like.script.crashes) > 1
    explorer = Explorer(
        BUDGET,
        nest_share=0.3 if deep else 0,
        follow_share=0.3 if follows else 0,
        follow_steps=follows or ["wait"],
    )
    try:
        await explorer.explore(script)
    except Found as again:
        if again.kind == like.kind:
            return again
    return None


async def _simplify_survival(found: Found) -> Found:
    crashes = found.script.crashes
    for number, crash in enumerate(crashes):
        for i, kept in enumerate(crash.survival):
            for plain in (ALL, 0):
                if kept == plain:
                    break
                survival = (*crash.survival[:i], plain, *crash.survival[i + 1 :])
                simpler = attrs.evolve(crash, survival=survival)
                script = attrs.evolve(found.script, crashes=(*crashes[:number], simpler, *crashes[number + 1 :]))
                again = await _replay(script)
                if again is not None and again.kind == found.kind:
                    found, crash, crashes = again, simpler, script.crashes
                    break
    return found


async def _replay(script: Script) -> Found | None:
    try:
        await Explorer(0).replay(script)
    except Found as again:
        return again
    except IndexError:
        pass  # with less surviving, the next recovery has fewer moments than the script counts on
    return None


async def narrate(script: Script) -> str:
    """The script in words."""
    setup = script.setup
    lines = [
        f"a ring of {setup.nr_segments} segments of {setup.blocks_per_segment} blocks, "
        f"disks of {', '.join(map(str, setup.disks))} bytes, seed {script.seed}",
        f"before: {script.prelude}",
        *(f"step: {step}" for step in script.steps),
    ]
    explorer, run = Explorer(0), None
    for before, crash in zip((None, *script.crashes), script.crashes, strict=False):
        try:
            run = await explorer.run(script) if before is None or run is None else await explorer.after(script, run, before)
        except Found as found:
            lines.append(f"already here: {found}")
            break
        lines += _tell(crash, run.points()[crash.point])
    return "\n".join(lines)


def _tell(crash: Crash, point: CrashPoint) -> Iterator[str]:
    yield f"power fails at moment {crash.point}; not synced were:"
    for pending, kept in zip(point.pending, crash.survival, strict=True):
        call = pending.call
        fate = "survives" if kept == ALL else "is lost" if not kept else f"survives in sectors {kept:#b}"
        yield f"  {call.operation.value} of {call.length} bytes at {call.offset} of {call.store}: {fate}"
    yield "recovery"
    if crash.step:
        yield f"step: {crash.step}"
