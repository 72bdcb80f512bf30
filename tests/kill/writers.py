# SPDX-License-Identifier: GPL-2.0-or-later
"""Workloads of writer processes: files on ext4 and xfs, SQLite databases, bursts on a bare disk."""

from __future__ import annotations

import abc
import random
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from tests.kill import database, files, raw
from tests.kill.witness import Statement, nr_acknowledged, statement_of
from tests.kill.workload import PATIENCE, Workload

TOP = Path(__file__).parent.parent.parent


class Expected(Protocol):
    """What the kinds of expectations have in common."""

    last: int

    def hear(self, statement: Statement) -> None: ...

    def compare(self, place: Path, /) -> list[str]: ...


class Writers(Workload):
    """Processes `tests.kill.writer`, each in a place of its own and with a witness of its own."""

    nr_writers = 3
    kind: str
    """What `tests.kill.writer` calls it."""

    def __init__(self, aside: Path) -> None:
        super().__init__(aside)
        self._expected = [self.expect_nothing(number) for number in range(self.nr_writers)]
        self._witnesses: list[Path] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._starts = 0

    @abc.abstractmethod
    def expect_nothing(self, number: int) -> Expected:
        """Of the place of writer `number` as `prepare` leaves it."""

    @abc.abstractmethod
    def last_word(self, number: int, rng: random.Random) -> str:
        """What writer `number` is told besides."""

    def place(self, fs: Path, number: int) -> Path:
        """Where writer `number` writes."""
        return fs / str(number)

    def start(self, fs: Path, rng: random.Random) -> None:
        self._starts += 1
        self._witnesses = [self.aside / f"{self.kind}.{self._starts}.{number}" for number in range(self.nr_writers)]
        self._processes = []
        for number, witness in enumerate(self._witnesses):
            first = self._expected[number].last + 1
            words = [self.kind, self.place(fs, number), witness, first, self.last_word(number, rng)]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.kill.writer", *map(str, words)],
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._processes.append(process)

    def nr_acknowledged(self) -> int:
        return sum(nr_acknowledged(witness) for witness in self._witnesses)

    def ended(self) -> list[str]:
        ended = [process for process in self._processes if process.poll() is not None]
        return [f"a writer ended by itself: {process.communicate()[0]}" for process in ended]

    def end(self, killed_at: int) -> list[str]:
        wrong = []
        for process in self._processes:
            try:
                said, _ = process.communicate(timeout=PATIENCE)
                if process.returncode != 0:
                    wrong.append(f"a writer failed: {said}")
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                wrong.append(f"a writer did not end in {PATIENCE:.0f} s on the dead disk")
        for expected, witness in zip(self._expected, self._witnesses, strict=True):
            expected.hear(statement_of(witness, killed_at))
        return wrong

    def verify(self, fs: Path) -> list[str]:
        return [wrong for number, expected in enumerate(self._expected) for wrong in expected.compare(self.place(fs, number))]

    def abandon(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


class Files(Writers):
    """Overwrites, new files, replacements and removals, each synced."""

    kind = "files"

    def prepare(self, fs: Path) -> None:
        for number in range(self.nr_writers):
            files.prepare(fs / str(number))

    def expect_nothing(self, number: int) -> Expected:
        return files.Expected()

    def last_word(self, number: int, rng: random.Random) -> str:
        return str(rng.getrandbits(32))


class XfsFiles(Files):
    """The same on xfs, which mkfs.xfs makes no smaller."""

    file_system = "xfs"
    disk_size = "320M"


class Sqlite(Writers):
    """Databases; `journals` are the journal modes to draw from."""

    kind = "database"
    journals: tuple[str, ...]

    def prepare(self, fs: Path) -> None:
        for number in range(self.nr_writers):
            database.prepare(fs / str(number), self.journals[0])

    def expect_nothing(self, number: int) -> Expected:
        return database.Expected()

    def last_word(self, number: int, rng: random.Random) -> str:
        return rng.choice(self.journals)


class SqliteWal(Sqlite):
    """With a write-ahead log."""

    journals = ("wal",)


class SqliteRollback(Sqlite):
    """With a rollback journal, ended in each of the three ways."""

    journals = ("delete", "truncate", "persist")


class BareDisk(Writers):
    """Bursts on a disk without a file system, whose barriers overlap: a loop device has one flush in flight at a time.

    It runs beside the others, on a second disk; `fs` is the disk's file.
    """

    nr_writers = 2
    kind = "raw"

    def prepare(self, fs: Path) -> None:
        raw.prepare(fs, self.nr_writers)

    def expect_nothing(self, number: int) -> Expected:
        return raw.Expected(number)

    def last_word(self, number: int, rng: random.Random) -> str:
        return str(number)

    def place(self, fs: Path, number: int) -> Path:
        return fs
