# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory: of a mount with nothing cached, and per cached line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks import fio
from benchmarks.bench import GIB, MIB, Bench
from benchmarks.contestants import PYTHON_PATH, Site, lcfs_mount
from benchmarks.figure import Figure
from benchmarks.machine import run
from benchmarks.storage import sparse_file

MOUNT = "lcfs, a mount"
TABLES = "the engine's tables, every page touched"
BASE = "resident with nothing cached"
FULL = "resident with every line in use"
PER_LINE = "per cached line"
BUFFERS = 64 * MIB
ALLOWED_BASE = 80 * MIB
"""What a mount may take whatever it caches."""
LINE = 4096

_TOUCH = """
import sys
from lcfs.engine.geometry import Geometry
from lcfs.engine.lookup import LineTable
from lcfs.engine.ring import Ring
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024
size = int(sys.argv[1])
geometry = Geometry.for_size(size)
before = resident()
ring = Ring(geometry, 1, 0)
table = LineTable(size // 4096)
states = ring.states
for array in (states.line_array, states.crc_array, states.device_array, states.dirty_array, states.valid_array, table.array):
    array[:] = 1
print((resident() - before) / geometry.nr_caches)
"""


def label(size: int) -> str:
    """Of a size of cache."""
    return f"{size // GIB} GiB cache"


def measure(bench: Bench) -> list[Figure]:
    """A mount whose cache is filled; and at more sizes the tables alone, which are what grows."""
    sizes = (GIB, 10 * GIB, 100 * GIB) if not bench.quick else (GIB,)
    figure = Figure(
        "memory",
        "Memory",
        "A mount of a sparse cache and a sparse disk of the same size: resident memory with nothing cached and, for 1 GiB, "
        "with every line of the cache in use; per line counts what is beyond the 64 write buffers and 80 MiB. At each size "
        "the engine's own tables for cache and disk, every page of them touched: what they take when the cache is full.",
    )
    for size in sizes:
        bench.say(f"memory: {label(size)}")
        place = bench.fresh("lcfs")
        site = Site(place, sparse_file(place / "disk.img", size), size, sparse_file(place / "ssd.img", size), size)
        with lcfs_mount(site) as disk:
            (pid,) = disk.pids
            figure.add(MOUNT, f"{BASE}, {label(size)}", "MiB", resident(pid) / MIB)
            if size == GIB and not bench.quick:
                fio.fill(disk.path, size)
                disk.settle()
                full = resident(pid)
                figure.add(MOUNT, f"{FULL}, {label(size)}", "MiB", full / MIB)
                per_line = max(0.0, (full - BUFFERS - ALLOWED_BASE) / (size // LINE))
                figure.add(MOUNT, f"{PER_LINE}, {label(size)}", "bytes", per_line)
        figure.add(TABLES, f"{PER_LINE}, {label(size)}", "bytes", tables(size))
    return [figure]


def resident(pid: int) -> int:
    """Resident memory of a process in bytes, its share of libraries included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def tables(size: int) -> float:
    """Bytes per line of the tables for a cache and a disk of `size` bytes, in a process of their own."""
    return float(run(sys.executable, "-c", _TOUCH, str(size), env={**os.environ, **PYTHON_PATH}))
