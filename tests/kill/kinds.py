# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs, and how it is cut off: the combinations that are tried."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tests.kill.case import Case, DaemonUnderTest, Outcome
from tests.kill.postgres import Postgres, lacks_postgres
from tests.kill.workload import Workload
from tests.kill.writers import Files, SqliteRollback, SqliteWal, XfsFiles
from tests.mount.takedown import take_down

KINDS: dict[str, type[Workload]] = {
    "ext4": Files,
    "xfs": XfsFiles,
    "sqlite-wal": SqliteWal,
    "sqlite-rollback": SqliteRollback,
    "postgres": Postgres,
}

CUTS = ("kill", "power")
"""The process dies and the page cache lives; or what was not synced is lost with it."""


def memory_of(cut: str, rng: random.Random) -> str | None:
    """How the files of a case forget, as DaemonUnderTest takes it."""
    if cut == "kill":
        return None
    return rng.choice(("none", *[f"some:{rng.getrandbits(32)}"] * 3))


def lacks(kind: str) -> str | None:
    """What is missing for a kind, in one sentence, or None."""
    return lacks_postgres() if kind == "postgres" else None


def play(directory: Path, kind: str, cut: str, rng: random.Random, *, rounds: int, longest: float) -> Iterator[Outcome]:
    """A case from its set-up to its end: one outcome per round. Raises Violation, and others where a command fails.

    Whatever happens, nothing of it runs, is mounted or bound afterwards.
    """
    directory.chmod(0o711)  # a database may run as another user
    aside = directory / "aside"
    aside.mkdir()
    lcfs = DaemonUnderTest(directory, memory_of(cut, rng))
    case = Case(lcfs, KINDS[kind](aside), rng)
    try:
        case.set_up()
        for number in range(rounds):
            if number:
                case.rest()
            yield case.round(longest)
        case.finish()
    finally:
        try:
            case.abandon()
        finally:
            take_down(lcfs)
