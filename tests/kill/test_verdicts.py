# SPDX-License-Identifier: GPL-2.0-or-later
"""What the witnesses state, and that a loss, an old version and an invention are each found."""

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kill import database, files, raw
from tests.kill.witness import Operation, Statement, Witness, nr_acknowledged, statement_of

LAST = 40


def test_witness(tmp_path: Path) -> None:
    path = tmp_path / "witness"
    assert statement_of(path, 0) == Statement([], []) and nr_acknowledged(path) == 0
    one, two, three = ({"n": number} for number in (1, 2, 3))
    witness = Witness(path)
    witness.intend(one)
    witness.acknowledge()
    killed_at = time.monotonic_ns()
    assert statement_of(path, killed_at) == Statement([one], [])
    witness.intend(two)
    assert statement_of(path, killed_at) == Statement([one], [two]) and nr_acknowledged(path) == 1
    witness.acknowledge()
    witness.intend(three)
    witness.close()
    assert statement_of(path, time.monotonic_ns()) == Statement([one, two], [three]) and nr_acknowledged(path) == 2
    assert statement_of(path, killed_at) == Statement([one], [two, three]), "what a dead disk says does not count"


# Files


def test_a_sector_says_whose_it_is() -> None:
    assert files.number_of(files.sector(12)) == 12
    assert files.number_of(files.sector(12)[:256] + files.sector(13)[256:]) is None
    assert files.number_of(bytes(512)) is None


class Directory:
    """A writer's directory after LAST operations, and what is expected of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "writer"
        self.expected = files.Expected()
        files.prepare(self.path)
        self._files = {name: os.open(self.path / name, os.O_RDWR) for name in files.OVERWRITTEN}
        rng = random.Random(1)
        names: set[int] = set()
        done = [self.do(files.choose(number, names, rng)) for number in range(1, LAST + 1)]
        self.expected.hear(Statement(done, []))

    def do(self, operation: Operation) -> Operation:
        files.do(self.path, self._files, operation)
        return operation

    def wrong(self) -> str:
        return "\n".join(self.expected.compare(self.path))

    def put(self, name: str, at: int, content: bytes) -> None:
        os.pwrite(self._files[name], content, at * files.SECTOR)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    directory = Directory(tmp_path)
    yield directory
    directory.close()


def test_what_was_done_is_what_is_expected(directory: Directory) -> None:
    assert directory.wrong() == ""
    assert directory.expected.last == LAST


IN_FLIGHT: list[Operation] = [
    {"do": "buffered", "n": LAST + 1, "sectors": [0, 8]},
    {"do": "direct", "n": LAST + 1, "first": 5, "count": 9},
    {"do": "create", "n": LAST + 1},
    {"do": "replace", "n": LAST + 1},
]


@pytest.mark.parametrize("operation", IN_FLIGHT, ids=lambda operation: str(operation["do"]))
@pytest.mark.parametrize("happened", [True, False])
def test_what_was_in_flight_may_have_happened(directory: Directory, operation: Operation, happened: bool) -> None:
    if happened:
        directory.do(operation)
    directory.expected.hear(Statement([], [operation]))
    assert directory.wrong() == ""


def test_a_removal_in_flight_may_have_happened_and_an_acknowledged_one_has(directory: Directory) -> None:
    name = min(directory.expected.names)
    removal = {"do": "remove", "n": LAST + 1, "name": name}
    directory.expected.hear(Statement([], [removal]))
    assert directory.wrong() == ""
    directory.expected.hear(Statement([removal | {"n": LAST + 2}], []))
    assert f"names/{name}: there and never made, or removed" in directory.wrong()


def test_what_was_found_once_is_expected_to_stay(directory: Directory) -> None:
    operation = IN_FLIGHT[1]
    directory.expected.hear(Statement([], [operation]))
    before = (directory.path / "direct").read_bytes()
    directory.do(operation)
    assert directory.wrong() == ""
    directory.put("direct", 0, before)
    assert "sector 5 is of" in directory.wrong()


def remove_a_name(directory: Directory) -> None:
    (directory.path / "names" / str(min(directory.expected.names))).unlink()


def cut_a_name_off(directory: Directory) -> None:
    name = max(directory.expected.names, key=files.length_of)
    os.truncate(directory.path / "names" / str(name), files.length_of(name) - 1)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda directory: directory.put("buffered", 3, files.sector(LAST + 9)), "buffered: sector 3 is of 49, not of one of"),
        (lambda directory: directory.put("direct", 3, bytes(512)), "direct: sector 3 is of None"),
        (lambda directory: directory.put("direct", files.NR_SECTORS, b"x"), "direct: 524289 bytes, not 524288"),
        (remove_a_name, "acknowledged and not there"),
        (cut_a_name_off, "not what was written to it"),
        (lambda directory: (directory.path / "names" / "999").touch(), "999: there and never made, or removed"),
        (lambda directory: (directory.path / "current").write_bytes(b"x"), "current: b'x', 1 bytes, is of none of"),
    ],
)
def test_damage_to_files_is_found(directory: Directory, damage: Callable[[Directory], None], complaint: str) -> None:
    damage(directory)
    assert complaint in directory.wrong()


# Databases


@pytest.fixture(params=["wal", "delete"])
def base(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A writer's database after LAST commits."""
    directory = tmp_path / "writer"
    database.prepare(directory, request.param)
    with closing(database.connect(directory, request.param)) as connection:
        for number in range(1, LAST + 1):
            database.commit(connection, number)
    return directory


def expected(acknowledged: int, in_flight: int) -> database.Expected:
    expected = database.Expected()
    expected.hear(Statement([{"n": number} for number in range(1, acknowledged + 1)], [{"n": in_flight}]))
    return expected


def test_the_last_commit_is_one_of_those_it_may_be(base: Path) -> None:
    assert expected(LAST, LAST + 1).compare(base) == []
    assert expected(LAST - 1, LAST).compare(base) == []
    assert expected(LAST - 2, LAST - 1).compare(base) == [f"{base}: the last commit is 40, not one of 38 to 39"]
    assert expected(LAST + 1, LAST + 2).compare(base) == [f"{base}: the last commit is 40, not one of 41 to 42"]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DELETE FROM item WHERE number = 7", "the items are not those of commit 40"),
        ("UPDATE item SET content = x'00' WHERE number = 7", "the items are not those of commit 40"),
        ("UPDATE account SET money = money + 1 WHERE number = 3", "the accounts are not those of commit 40"),
    ],
)
def test_damage_to_a_database_is_found(base: Path, damage: str, complaint: str) -> None:
    with closing(sqlite3.connect(base / database.FILE)) as connection:
        connection.execute(damage)
        connection.commit()
    assert expected(LAST, LAST + 1).compare(base) == [f"{base}: {complaint}"]


# A bare disk


def region_after(writes: list[tuple[int, int]], first: int = 1, region: int = 1) -> bytes:
    """Two regions, one of them as writes with numbers from `first` on leave it."""
    content = bytearray(files.sector(0) * (2 * raw.NR_SECTORS))
    for number, (at, count) in enumerate(writes, first):
        begin = (region * raw.NR_SECTORS + at) * files.SECTOR
        content[begin : begin + count * files.SECTOR] = files.sector(number) * count
    return bytes(content)


DURABLE = [(0, 8), (100, 3), (4, 8)]
BURST = [(200, 8), (0, 1), (300, 16)]


@pytest.fixture
def heard() -> raw.Expected:
    """A region with one burst behind it and one in flight."""
    expected = raw.Expected(1)
    expected.hear(Statement([{"n": 1, "writes": DURABLE}], [{"n": 4, "writes": BURST}]))
    assert expected.last == 6
    return expected


@pytest.mark.parametrize("count", range(4))
def test_any_prefix_of_the_burst_in_flight_may_be_there(tmp_path: Path, heard: raw.Expected, count: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(region_after(DURABLE + BURST[:count]))
    assert heard.compare(disk) == []
    disk.write_bytes(region_after(DURABLE + BURST[: count + 1]))
    assert (heard.compare(disk) == []) == (count == 3), "what was found once is expected to stay"


def test_a_part_of_its_last_write_may_be_missing(tmp_path: Path, heard: raw.Expected) -> None:
    (tmp_path / "disk").write_bytes(region_after([*DURABLE, *BURST[:2], (300, 5)]))
    assert heard.compare(tmp_path / "disk") == []


@pytest.mark.parametrize(
    ("writes", "complaint"),
    [
        ([*DURABLE[:2]], "sector 4 is of 1, not of one of [3]; 8 such sectors"),
        ([*DURABLE, (50, 1)], "sector 50 is of 4, not of one of [0]; 1 such sectors"),
        ([*DURABLE, (9, 0), *BURST[1:]], "not a prefix of what was written"),
        ([*DURABLE, (200, 7), *BURST[1:2]], "not a prefix of what was written"),
    ],
)
def test_losses_and_gaps_on_a_bare_disk_are_found(
    tmp_path: Path, heard: raw.Expected, writes: list[tuple[int, int]], complaint: str
) -> None:
    (tmp_path / "disk").write_bytes(region_after(writes))
    (wrong,) = heard.compare(tmp_path / "disk")
    assert complaint in wrong


def test_a_burst_does_what_it_says(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    raw.prepare(disk, 2)
    assert disk.read_bytes() == region_after([])
    rng = random.Random(1)
    bursts = [raw.choose(number, rng) for number in range(1, 1000, 20)]
    for burst in bursts:
        assert 1 <= len(burst["writes"]) <= raw.MOST_WRITES
        assert all(0 <= at and 1 <= count <= raw.LONGEST and at + count <= raw.NR_SECTORS for at, count in burst["writes"])
