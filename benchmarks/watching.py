# SPDX-License-Identifier: GPL-2.0-or-later
"""What watching costs: the timing of requests, per request, and a reading of MNT/metrics.

`fuse_ops.Operations` is called in this process, without FUSE, in blocks of requests that alternate with the same blocks
through handlers that time nothing. The cost is the median of the differences between the two blocks of a pair, which
leaves out what others on the machine add to either. Run by `make profile`, and alone: `python -m benchmarks.watching`.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks.storage import sparse_file
from lcfs.engine import Buffer, CacheSpec, DeviceSpec, FileStorage, MountSpec, open_manager
from lcfs.fuse_ops import Operations
from lcfs.sysfs_tree import DiskFile, TextFile, Tree

MIB = 1 << 20
LINE = 4096
DISK = 64 * MIB
PAIRS = 401
BLOCK = 500
"""Requests of a block; so few that a pair is over before the machine has something else to do."""
OVERWRITTEN = 64
"""Lines that the writes go to, again and again. They stay in the open record: sealing one would be in either block."""
READINGS = 100


@attrs.frozen
class Cost:
    """Nanoseconds of processor time per 4-KiB request."""

    handler: float
    """Without watching."""
    watching: float
    spread: float
    """The span in which the middle half of the differences lies."""

    def __str__(self) -> str:
        return f"{self.watching:.0f} (middle half within {self.spread:.0f}) on top of {self.handler:.0f}"


@attrs.frozen
class Watching:
    """What it costs."""

    read: Cost
    write: Cost
    metrics: float
    """Milliseconds of processor time of a reading of MNT/metrics, with one cache and one disk."""

    def text(self) -> str:
        """For a person."""
        return f"watching, ns: a read {self.read}, a write {self.write}; reading metrics once: {self.metrics:.2f} ms"


class Unwatched(Operations):
    """The same handlers without a clock."""

    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]
        device = self._disks.get(fh)
        try:
            if device is None:
                return self._texts[fh].read(off, size)
            data = device.read_nowait(off, size)
            return await device.read(off, size) if data is None else data
        except Exception as exc:
            raise self.refusal(exc) from None

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        device = self._disks.get(fh)
        try:
            if device is None:
                return await self._texts[fh].write(buf)
            count = device.write_nowait(off, buf)
            return await device.write(off, buf) if count < 0 else count
        except Exception as exc:
            raise self.refusal(exc) from None


def measure(directory: Path) -> Watching:
    """On a cache and a disk in `directory`, which is left with two files more."""
    return trio.run(_measure, directory)


async def _measure(directory: Path) -> Watching:
    image, backing = sparse_file(directory / "watching.img", DISK), sparse_file(directory / "watching.disk.img", DISK)
    image.unlink()
    spec = MountSpec(caches=(CacheSpec(str(image), size=8 * DISK),), devices=(DeviceSpec(str(backing), id=1),))
    async with open_manager(spec, FileStorage(), say=lambda text: None) as manager:
        await manager.caches[1].set_tunable("update_interval", 0)
        tree = Tree(manager, str(directory / "mnt"))
        disk = next(node for node in tree.entries(tree.root.entries["devices"]).values() if isinstance(node, DiskFile))  # type: ignore[arg-type]
        metrics = tree.root.entries["metrics"]
        assert isinstance(metrics, TextFile)
        watched, unwatched = Operations(tree), Unwatched(tree)
        handles = [(operations, (await operations.open(disk.ino, os.O_RDWR, None)).fh) for operations in (watched, unwatched)]  # type: ignore[arg-type]
        data = os.urandom(LINE)
        for line in range(DISK // LINE):
            await watched.write(handles[0][1], line * LINE, data)
        await manager.caches[1].flush_current_buffer()
        reads = await _paired([lambda place, o=o, fh=fh: o.read(fh, place, LINE) for o, fh in handles], DISK // LINE)  # type: ignore[misc]
        writes = await _paired([lambda place, o=o, fh=fh: o.write(fh, place, data) for o, fh in handles], OVERWRITTEN)  # type: ignore[misc]
        for operations, fh in handles:
            await operations.fsync(fh, False)
        started = time.thread_time()
        for _ in range(READINGS):
            metrics.open().read(0, MIB)
        milliseconds = (time.thread_time() - started) / READINGS * 1e3
        await manager.caches[1].drop_caches()
    return Watching(reads, writes, milliseconds)


async def _paired(requests: list[Callable[[int], Awaitable[Any]]], lines: int) -> Cost:
    """What the first costs more than the second."""
    plain, differences = [], []
    for number in range(PAIRS):
        places = [random.randrange(lines) * LINE for _ in range(BLOCK)]
        used = [0.0, 0.0]
        await _block(requests[1], places)  # the processor's caches are warm for both
        for which in (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1):
            used[which] += await _block(requests[which], places)
        plain.append(used[1] / (2 * BLOCK) * 1e9)
        differences.append((used[0] - used[1]) / (2 * BLOCK) * 1e9)
    low, middle, high = statistics.quantiles(differences, n=4)
    return Cost(statistics.median(plain), middle, high - low)


async def _block(request: Callable[[int], Awaitable[Any]], places: list[int]) -> float:
    """Seconds of processor time."""
    started = time.thread_time()
    for place in places:
        await request(place)
    used = time.thread_time() - started
    await trio.lowlevel.checkpoint()
    return used


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lcfs-watching-", dir="/var/tmp") as place:
        print(measure(Path(place)).text())
    sys.exit(0)
