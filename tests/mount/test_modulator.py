# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration on a real slow disk: it minds the load while there is room. The watermarks: tests/engine/test_modulator.py."""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Iterator
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


class Mounted:
    """What the test sees of the mount, and its ways to use it."""

    def __init__(self, lcfs: Lcfs) -> None:
        self._lcfs = lcfs
        self._disk = lcfs.directory / "mnt/devices/1"
        self._numbers = random.Random(1)

    def write(self, lines: int) -> None:
        """Random lines of the first half."""
        with open(self._disk, "r+b", buffering=0) as disk:
            for _ in range(lines):
                disk.seek(self._numbers.randrange(DISK // LINE // 2) * LINE)
                disk.write(self._numbers.randbytes(LINE))

    def load(self) -> int:
        """Percent, as the modulator found."""
        found = re.search(
            r'^lcfs_device_backing_load_ratio\{device="1"\} ([\d.e-]+)$', self._lcfs.read("metrics"), re.MULTILINE
        )
        assert found is not None
        return round(100 * float(found[1]))

    def migration(self) -> str:
        """idle, migrating or waiting, and why."""
        return self._lcfs.read("caches/1/migration")

    def segments_in_use(self) -> int:
        """From the oldest that is not completely on the backing to the newest."""
        numbers = dict(line.split() for line in self._lcfs.read("caches/1/segments").splitlines()[:4])
        return int(numbers["current"]) - int(numbers["tail"]) + 1


def test_a_slow_disk_stays_under_its_threshold_while_the_cache_fills(lcfs: Lcfs) -> None:
    with slow_disk(lcfs) as slow:
        lcfs.mount("--cache-size", f"{SEGMENTS + 1}M", "--device", f"1={slow}")
        lcfs.store("block/1/migrate_threshold", 40)
        mounted = Mounted(lcfs)

        # alone: the share that the threshold leaves, and the disk under it
        mounted.write(8 * 255)
        wait_until(lambda: mounted.migration().startswith("migrating for"), "migration")
        samples, said = [], []
        for _ in range(10):
            said.append(mounted.migration())
            time.sleep(1)
            samples.append(mounted.load())
            mounted.write(2 * 255)
        assert 0 < sum(samples) / len(samples) <= 40, samples
        # the share leaves a tenth of the threshold free; a sample above it all the same makes migration rest
        going = [re.fullmatch(r"migrating for (\d|[12]\d|3[0-6]) % of the time", one) is not None for one in said]
        assert sum(going) > len(going) // 2, said
        assert all(went or re.match("waiting disk 1 is busy: 4", one) for went, one in zip(going, said, strict=True)), said
        assert mounted.segments_in_use() > 8, "it fills faster than that"
