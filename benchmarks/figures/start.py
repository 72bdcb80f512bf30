# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes to format and to mount, by size."""

from __future__ import annotations

import os
import signal
import time

from benchmarks import fio
from benchmarks.bench import GIB, MIB, Bench
from benchmarks.contestants import Site, lcfs, lcfs_mount, lcfs_remount, set_attribute
from benchmarks.figure import Figure
from benchmarks.fio import Load
from benchmarks.machine import has_ended, soon
from benchmarks.storage import sparse_file

FORMAT = "format"
MOUNT = "mount with 64 dirty segments"
DIRTY_SEGMENTS = 64
SIZES = (GIB, 10 * GIB, 100 * GIB, 1024 * GIB)
DISK = GIB
WRITER = Load("writer", "randwrite", 4096, depth=32)


def label(what: str, size: int) -> str:
    """Of a size of cache."""
    return f"{what}, {size // GIB} GiB"


def measure(bench: Bench) -> list[Figure]:
    """Format and mount sparse images; the mounts follow a kill -9 that left dirty segments."""
    figure = Figure(
        "start",
        "Format and mount, by size of a sparse cache image",
        f"From the command to its end, Python's start included. Before a mount {DIRTY_SEGMENTS} segments of random lines were "
        "written and made durable, and the daemon was killed with SIGKILL.",
    )
    for turn in range(bench.scale.few_rounds):
        for size in SIZES if not bench.quick else SIZES[::3]:
            bench.say(f"start: round {turn + 1}, {size // GIB} GiB")
            place = bench.fresh("lcfs")
            image = place / "ssd.img"
            started = time.monotonic()
            lcfs("cache", "format", image, "--size", str(size))
            figure.add("lcfs", label(FORMAT, size), "s", time.monotonic() - started)
            site = Site(place, sparse_file(place / "disk.img", DISK), DISK, image, size)
            with lcfs_mount(site) as disk:
                set_attribute(disk.path.parent.parent, "update_interval", 0)
                set_attribute(disk.path.parent.parent, "allow_migrate", 0)
                fio.apply(WRITER, disk.path, region=DISK, seconds=60, most=DIRTY_SEGMENTS * MIB)
                (pid,) = disk.pids
                os.kill(pid, signal.SIGKILL)
                soon(lambda pid=pid: has_ended(pid), 10)  # type: ignore[misc]
            started = time.monotonic()
            with lcfs_remount(site):
                figure.add("lcfs", label(MOUNT, size), "s", time.monotonic() - started)
    return [figure]
