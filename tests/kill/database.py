# SPDX-License-Identifier: GPL-2.0-or-later
"""What a writer does with an SQLite database, and what must be found of it.

Commit N is a function of N alone: it adds item N, forgets an old item, and moves money between two accounts. So after a
crash the database is exactly what some commit left, none before the last acknowledged one, none behind the one in flight.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from tests.kill.witness import Statement, Witness

NR_ITEMS = 200
"""So many are kept: the file stays small and its pages are used again."""
NR_ACCOUNTS = 50
FILE = "database"


def item(number: int) -> bytes:
    """What commit `number` adds."""
    return random.Random(number).randbytes(random.Random(-number).randrange(1, 6000))


def transfer(number: int) -> tuple[int, int, int]:
    """From which account to which commit `number` moves how much."""
    rng = random.Random(number)
    return rng.randrange(NR_ACCOUNTS), rng.randrange(NR_ACCOUNTS), rng.randrange(1, 100)


def connect(directory: Path, journal: str) -> sqlite3.Connection:
    """Open it; after a crash the first access recovers. A small cache and small checkpoints bring more I/O.

    In journal mode "delete" a commit is the removal of the journal, which only synchronous=EXTRA makes durable.
    """
    connection = sqlite3.connect(directory / FILE, isolation_level=None, timeout=30)
    (mode,) = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()
    assert mode == journal, mode
    for pragma in ("synchronous=EXTRA", "cache_size=20", "wal_autocheckpoint=40"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def prepare(directory: Path, journal: str) -> None:
    """The state that commit 0 left."""
    directory.mkdir()
    with closing(connect(directory, journal)) as connection:
        connection.execute("CREATE TABLE item (number INTEGER PRIMARY KEY, content BLOB NOT NULL)")
        connection.execute("CREATE TABLE account (number INTEGER PRIMARY KEY, money INTEGER NOT NULL)")
        connection.executemany("INSERT INTO account VALUES (?, 0)", [(number,) for number in range(NR_ACCOUNTS)])


def write(directory: Path, witness: Witness, first: int, journal: str) -> NoReturn:
    """Do commits from number `first` on until one fails with sqlite3.Error."""
    connection = connect(directory, journal)  # not closed when it fails: that would be one more access
    number = first
    while True:
        witness.intend({"n": number})
        commit(connection, number)
        witness.acknowledge()
        number += 1


def commit(connection: sqlite3.Connection, number: int) -> None:
    """Commit `number`."""
    payer, payee, amount = transfer(number)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO item VALUES (?, ?)", (number, item(number)))
    connection.execute("DELETE FROM item WHERE number = ?", (number - NR_ITEMS,))
    connection.execute("UPDATE account SET money = money - ? WHERE number = ?", (amount, payer))
    connection.execute("UPDATE account SET money = money + ? WHERE number = ?", (amount, payee))
    connection.execute("COMMIT")


class Expected:
    """Which commits may be the last one in the database."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.last = 0
        """The last that was begun."""
        self._money = [0] * NR_ACCOUNTS
        self._counted = 0

    def hear(self, statement: Statement) -> None:
        """What was done since, by its witness."""
        if statement.acknowledged:
            self.last = self.acknowledged = statement.acknowledged[-1]["n"]
        if statement.undecided:
            self.last = statement.undecided[-1]["n"]

    def compare(self, directory: Path) -> list[str]:
        """What is wrong there. What was found becomes what is expected."""
        with closing(sqlite3.connect(directory / FILE)) as connection:
            wrong = [f"{directory}: {row[0]}" for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            items = dict(connection.execute("SELECT number, content FROM item"))
            money = [row[0] for row in connection.execute("SELECT money FROM account ORDER BY number")]
        found = max(items, default=0)
        if not self.acknowledged <= found <= self.last:
            return [*wrong, f"{directory}: the last commit is {found}, not one of {self.acknowledged} to {self.last}"]
        self.acknowledged = self.last = found
        numbers = range(max(1, found - NR_ITEMS + 1), found + 1)
        if items != {number: item(number) for number in numbers}:
            wrong.append(f"{directory}: the items are not those of commit {found}")
        if money != self._money_after(found):
            wrong.append(f"{directory}: the accounts are not those of commit {found}")
        return wrong

    def _money_after(self, number: int) -> list[int]:
        for counted in range(self._counted + 1, number + 1):
            payer, payee, amount = transfer(counted)
            self._money[payer] -= amount
            self._money[payee] += amount
        self._counted = number
        return self._money
