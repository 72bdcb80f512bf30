# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cache is for: a slow disk behind every contestant."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fio
from benchmarks.bench import MIB, Bench
from benchmarks.contestants import Contestant, Disk, Site, attribute
from benchmarks.figure import Figure, rotated
from benchmarks.fio import Load
from benchmarks.machine import loop_device, mounted, run
from benchmarks.storage import SLOW_DELAY_MS, slow_disk, why_no_nbd, written_file

ROOM = Load("random write, room in the cache", "randwrite", 4096, depth=32)
FULL = Load("random write, cache full", "randwrite", 4096, depth=32)
UNPACK = "unpack a source tree on ext4"
INSERT = "SQLite inserts on ext4, a commit each"
WHO = ("raw", "lcfs", "qemu", "nbdkit")
SSD = "the SSD itself"
"""What no cache on it can beat."""
TREE_FILES = {"full": 1200, "quick": 60}
EXT4 = ("-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")


def measure(bench: Bench) -> list[Figure]:
    """Random writes with room and without, then two programs on ext4."""
    disk, cache = (1024 * MIB, 256 * MIB) if not bench.quick else (16 * MIB, 4 * MIB)
    rounds = bench.scale.few_rounds
    seconds = 8.0 if not bench.quick else 0.3
    tree = _source_tree(bench.fresh("tree"), TREE_FILES[bench.scale.name])
    figure = Figure(
        "slow",
        f"A slow disk behind each contestant: {SLOW_DELAY_MS} ms for each request of up to 1 MiB, one at a time",
        f"nbdkit's delay filter through nbdfuse holds the disk of {disk >> 20} MiB; a cache has {cache >> 20} MiB. `raw` is "
        "the slow disk itself. Random writes of 4 KiB, qd 32, over the whole disk: first less than the cache takes, then "
        f"{seconds:g} s and more after the cache had time to fill. A tree of {TREE_FILES[bench.scale.name]} files is unpacked, "
        "with a sync; rows are inserted by sqlite3 with its defaults: both on ext4 on a loop device with direct I/O. "
        f"`{SSD}` is a file as large as the cache image, on the same file system, without a slow disk.",
    )
    reason = why_no_nbd()
    if reason:
        figure.absent["slow disk"] = reason
        return [figure]
    for turn in range(rounds):
        present = {contestant.name: contestant for contestant in bench.taking_part(WHO, figure)}
        for name in rotated(present, turn):
            bench.say(f"slow: round {turn + 1} of {rounds}, {name}")
            with _serving(bench, present[name], disk, cache) as served:
                _random_writes(figure, served, disk, cache, seconds)
            with _serving(bench, present[name], disk, cache, file_system=True) as served:
                _programs(figure, served, bench.fresh("ext4"), tree, seconds)
        if not bench.only:
            bench.say(f"slow: round {turn + 1} of {rounds}, {SSD}")
            ssd = written_file(bench.fresh("ssd") / "ssd.img", cache if not bench.quick else disk)
            run("mkfs.ext4", *EXT4, ssd)
            _programs(figure, Disk(SSD, ssd, (), lambda: None), bench.fresh("ext4"), tree, seconds)
    return [figure]


@contextlib.contextmanager
def _serving(bench: Bench, contestant: Contestant, disk: int, cache: int, *, file_system: bool = False) -> Iterator[Disk]:
    """A contestant on a slow disk of its own."""
    place = bench.fresh(contestant.name)
    data = written_file(place / "data.img", disk)
    if file_system:
        run("mkfs.ext4", *EXT4, data)
    image = written_file(place / "ssd.img", cache) if contestant.has_cache else place / "ssd.img"
    with slow_disk(place / "slow", data) as backing:
        site = Site(place, backing, disk, image, cache)
        with contestant.serve(site) as served:
            yield served
    shutil.rmtree(place)


def _random_writes(figure: Figure, served: Disk, disk: int, cache: int, seconds: float) -> None:
    room = fio.apply(ROOM, served.path, region=disk, seconds=seconds / 2, most=cache // 2)
    figure.add(served.name, ROOM.name, ROOM.unit, room.rate)
    if served.name == "lcfs":
        # the rest of the room is not counted
        fio.apply(FULL, served.path, region=disk, seconds=2 * seconds, most=cache // 2)
        full = fio.apply(FULL, served.path, region=disk, seconds=2 * seconds)
        dirty = attribute(served.path.parent.parent, "nr_dirty_caches")
        figure.notes.append(f"lcfs, cache full: {dirty} dirty lines of {cache // 4096} at the end of a round.")
    else:
        full = fio.apply(FULL, served.path, region=disk, seconds=seconds / 2)
    figure.add(served.name, FULL.name, FULL.unit, full.rate)


def _programs(figure: Figure, served: Disk, mountpoint: Path, tree: Path, seconds: float) -> None:
    with loop_device(served.path, direct=True) as device, mounted(device, mountpoint):
        started = time.monotonic()
        run("tar", "--extract", "--file", tree, "--directory", mountpoint)
        run("sync", "--file-system", mountpoint)
        files = sum(1 for path in mountpoint.rglob("*") if path.is_file())
        figure.add(served.name, UNPACK, "files/s", files / (time.monotonic() - started))
        figure.add(served.name, INSERT, "commits/s", _inserts(mountpoint / "rows.db", seconds / 2))


def _inserts(database: Path, seconds: float) -> float:
    """Commits per second, each of one row of about 200 bytes."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
        started = time.monotonic()
        count = 0
        while time.monotonic() < started + seconds:
            connection.execute("INSERT INTO rows (text) VALUES (?)", (f"{count:0200d}",))
            count += 1
        return count / (time.monotonic() - started)


def _source_tree(place: Path, count: int) -> Path:
    """A tar archive of so many files of the standard library, or all it has."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py*") if path.is_file() and "-packages" not in str(path))
    archive = place / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        for path in files[:count]:
            tar.add(path, arcname=path.relative_to(root))
    return archive
