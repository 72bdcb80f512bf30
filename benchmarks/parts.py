# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts of a request cost in lcfs's own code, called in this process without FUSE: microseconds of processor time.

Only the event loop's thread is counted; worker threads (the log's writes) are not.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from pathlib import Path

import attrs
import trio

from benchmarks.storage import sparse_file
from lcfs.engine import CacheSpec, Device, DeviceSpec, FileStorage, MountSpec, open_manager
from lcfs.fuse_loop import DrainedTrio

MIB = 1 << 20
LINE = 4096
DISK = 256 * MIB
LINES = 40_000
RUNS = 256
TURN = 32
"""Requests between two checkpoints, as under a load of that depth."""


@attrs.frozen
class Parts:
    """Microseconds per request."""

    loop: float
    """Finding that there is a request: lock, poll, clock."""
    write_line: float
    """The engine's part of a 4-KiB write, its copy into the write buffer included."""
    read_line: float
    """The engine's part of a 4-KiB read from the page cache, copy and CRC included."""
    write_run: float
    """The same for 1 MiB."""
    read_run: float
    copy_line: float
    """The copy of 4 KiB alone."""
    copy_run: float
    """The copy of 1 MiB alone."""


def measure(directory: Path) -> Parts:
    """On a cache and a disk in `directory`, which is left with two files more."""
    return trio.run(_measure, directory)


async def _measure(directory: Path) -> Parts:
    image, backing = sparse_file(directory / "parts.img", 4 * DISK), sparse_file(directory / "parts.disk.img", DISK)
    image.unlink()
    spec = MountSpec(
        caches=(CacheSpec(str(image), size=4 * DISK),),
        devices=(DeviceSpec(str(backing), id=1),),
    )
    async with open_manager(spec, FileStorage(), say=lambda text: None) as manager:
        cache, device = manager.caches[1], manager.devices[1]
        await cache.set_tunable("update_interval", 0)
        run, line = os.urandom(MIB), os.urandom(LINE)
        # the second time over, the image is in the page cache and the buffers are made
        for _ in range(2):
            write_run = await _write(device, run, [at * MIB for at in range(RUNS)])
            read_run = await _read(device, MIB, [at * MIB for at in range(RUNS)])
        places = [random.randrange(DISK // LINE) * LINE for _ in range(LINES)]
        write_line = await _write(device, line, places)
        read_line = await _read(device, LINE, places)
        await cache.drop_caches()
    return Parts(
        loop=await _loop(),
        write_line=write_line,
        read_line=read_line,
        write_run=write_run,
        read_run=read_run,
        copy_line=_copy(LINE, LINES),
        copy_run=_copy(MIB, RUNS),
    )


async def _write(device: Device, data: bytes, offsets: list[int]) -> float:
    started = time.thread_time()
    for number, offset in enumerate(offsets):
        if device.write_nowait(offset, data) < 0:
            await device.write(offset, data)
        if number % TURN == 0:
            await trio.lowlevel.checkpoint()
    used = time.thread_time() - started
    await device.flush()
    return used / len(offsets) * 1e6


async def _read(device: Device, length: int, offsets: list[int]) -> float:
    started = time.thread_time()
    for number, offset in enumerate(offsets):
        if device.read_nowait(offset, length) is None:
            await device.read(offset, length)
        if number % TURN == 0:
            await trio.lowlevel.checkpoint()
    return (time.thread_time() - started) / len(offsets) * 1e6


async def _loop() -> float:
    """The loop over a descriptor that is always readable."""
    drained = DrainedTrio()
    lock = drained.Lock()
    descriptor = os.eventfd(1)
    try:
        async with drained.open_nursery():
            started = time.thread_time()
            for _ in range(LINES):
                async with lock:
                    await drained.wait_readable(descriptor)
            return (time.thread_time() - started) / LINES * 1e6
    finally:
        os.close(descriptor)


def _copy(length: int, count: int) -> float:
    """Into a buffer of a segment's size, at changing places, as the write path does."""
    buffer = memoryview(mmap.mmap(-1, 16 * MIB))
    data = os.urandom(length)
    places = [at * length % (16 * MIB) for at in range(count)]
    for _ in range(2):
        started = time.thread_time()
        for place in places:
            buffer[place : place + length] = data
        used = time.thread_time() - started
    return used / count * 1e6
