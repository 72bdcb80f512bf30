# SPDX-License-Identifier: GPL-2.0-or-later
"""What a writer does with files, and what must be found of it: overwrites, new files, replacements, removals.

Every operation has a number, and everything it writes says that number in each 512-byte sector. A writer has a directory
of its own:

    buffered    overwritten block by block, then fdatasync
    direct      overwritten in runs of sectors with O_DIRECT, then fdatasync
    names/N     made by operation N: fsync of the file, then of its directory; removed by a later one
    current     replaced by rename: fsync of the new file, rename, fsync of the directory
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path
from typing import NoReturn

from tests.kill.witness import Operation, Statement, Witness

SECTOR = 512
NR_SECTORS = 1024
"""Of each of the two files that are overwritten."""
OVERWRITTEN = ("buffered", "direct")
MOST_NAMES = 100


def sector(number: int) -> bytes:
    """What operation `number` puts in a sector."""
    return f"{number:015};".encode() * (SECTOR // 16)


def number_of(content: bytes) -> int | None:
    """Which operation wrote a sector; None where the sector is of no single one."""
    number = content[:15]
    return int(number) if number.isdigit() and content == sector(int(number)) else None


def length_of(number: int) -> int:
    """Bytes of a whole file that operation `number` writes."""
    return random.Random(number).choice((0, 1, 511, 512, 4096, 5000, 20000, 70000))


def content_of(number: int) -> bytes:
    """A whole file that operation `number` writes."""
    length = length_of(number)
    return (sector(number) * (length // SECTOR + 1))[:length]


def prepare(directory: Path) -> None:
    """The state that operation 0 left."""
    (directory / "names").mkdir(parents=True)
    for name in OVERWRITTEN:
        (directory / name).write_bytes(sector(0) * NR_SECTORS)
    (directory / "current").write_bytes(content_of(0))


# Writing


def write(directory: Path, witness: Witness, first: int, seed: int) -> NoReturn:
    """Do operations from number `first` on until one fails with OSError."""
    rng = random.Random(seed)
    files = {name: os.open(directory / name, os.O_RDWR | flags) for name, flags in (("buffered", 0), ("direct", os.O_DIRECT))}
    names = {int(name) for name in os.listdir(directory / "names")}
    number = first
    while True:
        operation = choose(number, names, rng)
        witness.intend(operation)
        do(directory, files, operation)
        witness.acknowledge()
        number += 1


def choose(number: int, names: set[int], rng: random.Random) -> Operation:
    """The next operation; `names` is brought up to date."""
    kind = rng.choice(("buffered", "buffered", "direct", "direct", "create", "create", "remove", "replace"))
    if kind == "buffered":
        return {
            "do": kind,
            "n": number,
            "sectors": sorted({rng.randrange(NR_SECTORS // 8) * 8 for _ in range(rng.randrange(1, 9))}),
        }
    if kind == "direct":
        first = rng.randrange(NR_SECTORS)
        return {"do": kind, "n": number, "first": first, "count": rng.randrange(1, min(33, NR_SECTORS - first + 1))}
    if kind == "replace":
        return {"do": kind, "n": number}
    if len(names) > MOST_NAMES or (kind == "remove" and names):
        name = rng.choice(sorted(names))
        names.remove(name)
        return {"do": "remove", "n": number, "name": name}
    names.add(number)
    return {"do": "create", "n": number}


def do(directory: Path, files: dict[str, int], operation: Operation) -> None:
    """One operation, durable when this returns."""
    number = operation["n"]
    match operation["do"]:
        case "buffered":
            for first in operation["sectors"]:
                write_all(files["buffered"], sector(number) * 8, first * SECTOR)
            os.fdatasync(files["buffered"])
        case "direct":
            with mmap.mmap(-1, operation["count"] * SECTOR) as aligned:
                aligned.write(sector(number) * operation["count"])
                write_all(files["direct"], aligned, operation["first"] * SECTOR)
            os.fdatasync(files["direct"])
        case "create":
            _write_file(directory / "names" / str(number), number)
            _sync_directory(directory / "names")
        case "remove":
            os.unlink(directory / "names" / str(operation["name"]))
            _sync_directory(directory / "names")
        case "replace":
            _write_file(directory / "next", number)
            os.rename(directory / "next", directory / "current")
            _sync_directory(directory)


def write_all(file: int, content: bytes | mmap.mmap | memoryview, offset: int) -> None:
    """One pwrite(2); OSError when it was cut short."""
    if os.pwrite(file, content, offset) != len(content):
        raise OSError(errno.EIO, "a write that was cut short")


def _write_file(path: Path, number: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(file, content_of(number), 0)
        os.fsync(file)
    finally:
        os.close(file)


def _sync_directory(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# Judging


class Expected:
    """What a writer's directory may hold: for everything in it, the numbers of the operations it may be of."""

    def __init__(self) -> None:
        self.sectors = {name: [{0} for _ in range(NR_SECTORS)] for name in OVERWRITTEN}
        self.current = {0}
        self.names: set[int] = set()
        self.undecided: set[int] = set()
        """Names that may be there or not, whole or not."""
        self.last = 0
        """The last operation that was begun."""

    def hear(self, statement: Statement) -> None:
        """What was done since, by its witness."""
        for operation in statement.acknowledged:
            self._take(operation, surely=True)
        for operation in statement.undecided:
            self._take(operation, surely=False)

    def _take(self, operation: Operation, *, surely: bool) -> None:
        number = self.last = operation["n"]
        match operation["do"]:
            case "buffered":
                for first in operation["sectors"]:
                    self._overwrite("buffered", first, 8, number, surely)
            case "direct":
                self._overwrite("direct", operation["first"], operation["count"], number, surely)
            case "create" if surely:
                self.names.add(number)
            case "create":
                self.undecided.add(number)
            case "remove":
                self.names.discard(operation["name"])
                (self.undecided.discard if surely else self.undecided.add)(operation["name"])
            case "replace":
                self.current = {number} if surely else self.current | {number}

    def _overwrite(self, name: str, first: int, count: int, number: int, surely: bool) -> None:
        for at in range(first, first + count):
            self.sectors[name][at] = {number} if surely else self.sectors[name][at] | {number}

    def compare(self, directory: Path) -> list[str]:
        """What is wrong there. What was found becomes what is expected: it is on the disk."""
        wrong = self._compare_overwritten(directory) + self._compare_names(directory / "names")
        content = (directory / "current").read_bytes()
        found = {number for number in self.current if content == content_of(number)}
        if not found:
            wrong.append(f"{directory}/current: {content[:16]!r}, {len(content)} bytes, is of none of {sorted(self.current)}")
        self.current = found
        return wrong

    def _compare_overwritten(self, directory: Path) -> list[str]:
        wrong = []
        for name, sectors in self.sectors.items():
            content = (directory / name).read_bytes()
            if len(content) != NR_SECTORS * SECTOR:
                wrong.append(f"{directory}/{name}: {len(content)} bytes, not {NR_SECTORS * SECTOR}")
                continue
            for at, allowed in enumerate(sectors):
                found = number_of(content[at * SECTOR : (at + 1) * SECTOR])
                if found not in allowed:
                    wrong.append(f"{directory}/{name}: sector {at} is of {found}, not of one of {sorted(allowed)}")
                else:
                    sectors[at] = {found}
        return wrong

    def _compare_names(self, directory: Path) -> list[str]:
        there = {int(name) for name in os.listdir(directory)}
        wrong = [f"{directory}/{name}: acknowledged and not there" for name in sorted(self.names - there)]
        wrong += [
            f"{directory}/{name}: there and never made, or removed" for name in sorted(there - self.names - self.undecided)
        ]
        wrong += [
            f"{directory}/{name}: not what was written to it"
            for name in sorted(self.names & there)
            if (directory / str(name)).read_bytes() != content_of(name)
        ]
        return wrong
