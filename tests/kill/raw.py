# SPDX-License-Identifier: GPL-2.0-or-later
"""What a writer does with its region of a bare disk: bursts of writes, a fsync behind each.

No file system orders the writes, so what is found must be a prefix of them: everything up to the last fsync that
returned, then some of what follows, without a gap, of whose last write a part may be missing.
"""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path
from typing import NoReturn

from tests.kill.files import SECTOR, number_of, sector, write_all
from tests.kill.witness import Operation, Statement, Witness

NR_SECTORS = 4096
"""Of a region."""
LONGEST = 64
"""Sectors of one write, at most."""
MOST_WRITES = 12
"""Of one burst."""


def prepare(disk: Path, nr_regions: int) -> None:
    """The state that write 0 left in every region."""
    file = os.open(disk, os.O_WRONLY)
    try:
        write_all(file, sector(0) * (nr_regions * NR_SECTORS), 0)
        os.fsync(file)
    finally:
        os.close(file)


def write(disk: Path, witness: Witness, first: int, region: int) -> NoReturn:
    """Bursts from write number `first` on until one fails with OSError."""
    rng = random.Random(first)
    file = os.open(disk, os.O_RDWR | os.O_DIRECT)
    number = first
    aligned = memoryview(mmap.mmap(-1, LONGEST * SECTOR))
    while True:
        burst = choose(number, rng)
        witness.intend(burst)
        for at, count in burst["writes"]:
            aligned[: count * SECTOR] = sector(number) * count
            write_all(file, aligned[: count * SECTOR], (region * NR_SECTORS + at) * SECTOR)
            number += 1
        os.fsync(file)
        witness.acknowledge()


def choose(number: int, rng: random.Random) -> Operation:
    """A burst whose first write has that number: where each begins, and how many sectors it has."""
    writes = []
    for _ in range(rng.randrange(1, MOST_WRITES + 1)):
        count = rng.choice((1, 3, 8, 8, 8, 16, rng.randrange(1, LONGEST + 1)))
        at = rng.randrange(NR_SECTORS - count + 1)
        writes.append((at // 8 * 8 if count % 8 == 0 else at, count))
    return {"n": number, "writes": writes}


class Expected:
    """What a region may hold."""

    def __init__(self, region: int) -> None:
        self.region = region
        self.last = 0
        """The last write of the last burst that was begun."""
        self._states = [[0] * NR_SECTORS]
        """Sector by sector, the last write to it: surely durable at first, then after each write that may have happened."""

    def hear(self, statement: Statement) -> None:
        """What was done since, by its witness."""
        for burst in statement.acknowledged:
            self._do(burst)
            del self._states[:-1]
        for burst in statement.undecided:
            self._do(burst)

    def _do(self, burst: Operation) -> None:
        for number, (at, count) in enumerate(burst["writes"], burst["n"]):
            state = self._states[-1]
            self._states.append([*state[:at], *[number] * count, *state[at + count :]])
            self.last = number

    def compare(self, disk: Path) -> list[str]:
        """What is wrong there. What was found becomes what is expected."""
        with open(disk, "rb") as file:
            file.seek(self.region * NR_SECTORS * SECTOR)
            content = file.read(NR_SECTORS * SECTOR)
        found = [number_of(content[at : at + SECTOR]) for at in range(0, len(content), SECTOR)]
        following = [*self._states[1:], self._states[-1]]
        if not any(self._lies_between(found, *pair) for pair in zip(self._states, following, strict=True)):
            return [self._complaint(found)]
        self._states = [[number for number in found if number is not None]]
        return []

    @staticmethod
    def _lies_between(found: list[int | None], before: list[int], after: list[int]) -> bool:
        return all(number in pair for number, *pair in zip(found, before, after, strict=True))

    def _complaint(self, found: list[int | None]) -> str:
        states = self._states
        wrong = [at for at, number in enumerate(found) if all(number != state[at] for state in states)]
        where = f"region {self.region} of the bare disk"
        if wrong:
            at = wrong[0]
            allowed = sorted({state[at] for state in states})
            return f"{where}: sector {at} is of {found[at]}, not of one of {allowed}; {len(wrong)} such sectors"
        return f"{where}: not a prefix of what was written: a later write is there, an earlier one is not"
