# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration on a real slow disk: it minds the load while there is room, and makes room whatever the load."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs, wait_until

pytestmark = [pytest.mark.mount, pytest.mark.loop, pytest.mark.timeout(300)]

LINE = 4096
MIB = 1 << 20
DISK = 64 * MIB
SEGMENTS = 31
"""Of a cache of 32 MiB."""


@contextmanager
def slow_disk(lcfs: Lcfs) -> Iterator[Path]:
    """A file that takes 8 ms for each request, one at a time: nbdkit's delay filter through nbdfuse."""
    slow = lcfs.directory / "slow"
    slow.write_bytes(b"")
    lcfs.shell("truncate", "-s", str(DISK), "a.raw")
    filters = ["--filter=noparallel", "--filter=delay", "file", "a.raw", "serialize=all-requests", "rdelay=8ms", "wdelay=8ms"]
    nbd = subprocess.Popen(["nbdfuse", str(slow), "--command", "nbdkit", "-s", *filters], cwd=lcfs.directory)
    try:
        wait_until(lambda: slow.stat().st_size == DISK, "nbdfuse to serve")
        yield slow
    finally:
        lcfs.run("umount", lcfs.directory / "mnt", check=False)
        lcfs.shell("umount", slow, check=False)
        nbd.wait(timeout=30)


@contextmanager
def busy(*jobs: Callable[[], None]) -> Iterator[None]:
    """Each job again and again, in a thread of its own, until the block is left."""
    stop = threading.Event()
    errors: list[Exception] = []

    def run(job: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                job()
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


class Mounted:
    """What the test sees of the mount, and its ways to use it."""

    def __init__(self, lcfs: Lcfs, slow: Path) -> None:
        self._lcfs = lcfs
        self._disk = lcfs.directory / "mnt/devices/1"
        self._slow = slow
        self._numbers = random.Random(1)
        self._unread = itertools.count(DISK // LINE // 2)

    def write(self, lines: int) -> None:
        """Random lines of the first half."""
        with open(self._disk, "r+b", buffering=0) as disk:
            for _ in range(lines):
                disk.seek(self._numbers.randrange(DISK // LINE // 2) * LINE)
                disk.write(self._numbers.randbytes(LINE))

    def read_a_new_line(self) -> None:
        """One that neither the cache nor a page cache has: it comes from the slow disk."""
        file = os.open(self._disk, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(file, [mmap.mmap(-1, LINE)], next(self._unread) * LINE)
        finally:
            os.close(file)

    def somebody_elses_read(self) -> None:
        """Of the slow disk, not through lcfs."""
        file = os.open(self._slow, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(file, [mmap.mmap(-1, MIB)], random.randrange(DISK // MIB) * MIB)
        finally:
            os.close(file)

    def load(self) -> int:
        """Percent, as the modulator found."""
        ratio = r'^lcfs_device_backing_load_ratio\{device="1"\} (\S+)$'
        found = re.search(ratio, self._lcfs.read("metrics"), re.MULTILINE)
        assert found is not None
        return round(100 * float(found[1]))

    def migration(self) -> str:
        """idle, migrating or waiting, and why."""
        return self._lcfs.read("caches/1/migration")

    def dirty_lines(self) -> int:
        """Not on the backing yet."""
        return int(self._lcfs.read("caches/1/nr_dirty_caches"))

    def segments_in_use(self) -> int:
        """From the oldest that is not completely on the backing to the newest."""
        numbers = dict(line.split() for line in self._lcfs.read("caches/1/segments").splitlines()[:4])
        return int(numbers["current"]) - int(numbers["tail"]) + 1


def test_a_slow_disk_stays_under_its_threshold_while_the_cache_fills_and_the_watermark_overrides_it(lcfs: Lcfs) -> None:
    with slow_disk(lcfs) as slow:
        lcfs.mount("--cache-size", f"{SEGMENTS + 1}M", "--device", f"1={slow}")
        lcfs.store("block/1/migrate_threshold", 40)
        mounted = Mounted(lcfs, slow)

        # alone: the share that the threshold leaves, and the disk under it
        mounted.write(8 * 255)
        wait_until(lambda: mounted.migration().startswith("migrating for"), "migration")
        samples, said = [], []
        for _ in range(10):
            said.append(mounted.migration())
            time.sleep(1)
            samples.append(mounted.load())
            mounted.write(255)
        assert 0 < sum(samples) / len(samples) <= 40, samples
        # the share leaves a tenth of the threshold free; a sample above it all the same makes migration rest
        going = [re.fullmatch(r"migrating for (\d|[12]\d|3[0-6]) % of the time", one) is not None for one in said]
        assert sum(going) > len(going) // 2, said
        assert all(went or re.match("waiting disk 1 is busy: 4", one) for went, one in zip(going, said, strict=True)), said
        # filling, and below the high watermark, where the load would not count any more
        assert 8 < mounted.segments_in_use() < SEGMENTS * 7 // 8

        # beside somebody else: it rests, and says why
        for _ in range(20):  # how long a read takes while the disk is quiet
            mounted.read_a_new_line()
        others = [mounted.somebody_elses_read] * 3
        with busy(mounted.read_a_new_line, *others):
            wait_until(lambda: mounted.migration().startswith("waiting disk 1 is busy"), "migration to mind the load")
            assert mounted.load() > 40

            # the cache fills, down to a free eighth: then it writes back, whatever the load (until a quarter is free,
            # which takes minutes beside so many others)
            while not (said := mounted.migration()).endswith("since the cache fills"):
                assert said.startswith("waiting disk 1 is busy"), said
                assert mounted.segments_in_use() <= SEGMENTS
                mounted.write(51)
            assert mounted.segments_in_use() > SEGMENTS * 7 // 8 - 1
            dirty = mounted.dirty_lines()
            wait_until(lambda: mounted.dirty_lines() < dirty - 500, "lines to be written back", patience=120)
            assert mounted.load() > 40
            assert mounted.migration().endswith("since the cache fills")
