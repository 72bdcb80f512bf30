# SPDX-License-Identifier: GPL-2.0-or-later
"""Lives of mounts go well; the same seed is the same life; and what is planted in the engine shows."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from lcfs.engine.log import Log
from lcfs.engine.migrate import Migrator
from lcfs.engine.read_path import ReadPath
from lcfs.engine.write_path import WritePath
from lcfs.testing.explore import in_trio
from tests.planted.edit import Edit, planted
from tests.simulation.life import Life
from tests.simulation.lives import live, live_all, main

LIVES = 200
STRETCHES = 3


@pytest.mark.timeout(900)
def test_lives_go_well(say_at_the_end: Callable[[str], None]) -> None:
    report = live_all(LIVES, 1, jobs=os.cpu_count() or 1, stretches=STRETCHES)
    say_at_the_end(report.text())
    assert not report.findings, "\n".join(report.findings)
    assert report.operations > 1000 * LIVES
    assert report.days > LIVES
    assert report.refused > LIVES, "there is trouble, and it is answered"


def life_of(seed: int) -> Life:
    life = Life(seed, 2)
    in_trio(life.live)
    return life


def test_the_same_seed_is_the_same_life() -> None:
    first, again, other = life_of(5), life_of(5), life_of(6)
    assert (first.trace, first.operations, list(first.told)) == (again.trace, again.operations, list(again.told))
    assert first.trace != other.trace


BUGS = {
    "a barrier that flushes nothing": (
        Edit(Log.flush_image, "await self.image.flush()", "await trio.lowlevel.checkpoint()"),
        "Violation: R|Damaged",
    ),
    "a tail that moves before the backing was flushed": (
        Edit(Migrator._write_to, "await store.flush()\n", "pass\n"),
        "Violation: R",
    ),
    "a read without the sectors that are dirty": (
        Edit(ReadPath._fill, "_overlay(out, content, mask)", "pass"),
        "Violation: R|Violation: read",
    ),
    "sectors that are dirty and not valid": (
        Edit(WritePath._put_sectors, "states.valid[new] = mask | carried", "states.valid[new] = carried"),
        "Violation: R|Violation: read",
    ),
    "a flush that failed and is trusted": (
        Edit(Log.fail, "self._failure = reason", "return"),
        "Violation: R|Violation: state|Violation: liveness|Damaged",
    ),
    "writers whom nobody wakes": (
        Edit(Log._open_room, "room.set()", "pass"),
        "Violation: R6|Hung|liveness",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows(bug: str) -> None:
    edit, kinds = BUGS[bug]
    with planted([edit]):
        for seed in range(24):
            findings = live(seed, STRETCHES).findings
            if findings:
                break
    assert findings, f"{bug}: nothing shows in 24 lives"
    assert any(kind in findings[0] for kind in kinds.split("|")), findings[0]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ROUNDS=1", "SEED=3", "JOBS=1", "STRETCHES=1"]) == 0
    assert "1 lives" in capsys.readouterr().out
    assert main(["ROUNDS=many"]) == 2
    assert "ROUNDS=many" in capsys.readouterr().err
