# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a full cache takes to drain to a slow disk."""

from __future__ import annotations

import time

from benchmarks import fio
from benchmarks.bench import MIB, Bench
from benchmarks.contestants import Site, attribute, lcfs_mount, set_attribute
from benchmarks.figure import Figure
from benchmarks.fio import Load
from benchmarks.storage import slow_disk, why_no_nbd, written_file

ONE_BY_ONE = "one write per line"
LCFS = "lcfs"
DRAIN = "drain of a cache filled at random"
WRITER = Load("writer", "randwrite", 4096, depth=32)
SINGLE = Load("single", "randwrite", 4096)


def measure(bench: Bench) -> list[Figure]:
    """drop_caches, beside what one write per line would take on the same disk."""
    cache = 32 * MIB if not bench.quick else 4 * MIB
    disk = 4 * cache
    rounds = bench.scale.few_rounds
    figure = Figure(
        "drain",
        "Draining a cache to a slow disk",
        f"A cache of {cache >> 20} MiB is filled with random lines of a disk of {disk >> 20} MiB while migration is off, then "
        "`echo 1 > drop_caches`. One write per line: the number of dirty lines times what a random 4 KiB write takes there.",
    )
    reason = why_no_nbd()
    if reason:
        figure.absent["slow disk"] = reason
        return [figure]
    for turn in range(rounds):
        bench.say(f"drain: round {turn + 1} of {rounds}")
        place = bench.fresh("lcfs")
        image = written_file(place / "ssd.img", cache)
        data = written_file(place / "data.img", disk)
        with slow_disk(place / "slow", data) as backing:
            alone = fio.apply(SINGLE, backing, region=disk, seconds=2.0 if not bench.quick else 0.3)
            with lcfs_mount(Site(place, backing, disk, image, cache)) as served:
                mountpoint = served.path.parent.parent
                set_attribute(mountpoint, "update_interval", 0)
                set_attribute(mountpoint, "allow_migrate", 0)
                fio.apply(WRITER, served.path, region=disk, seconds=60, most=cache * 7 // 8)
                dirty = attribute(mountpoint, "nr_dirty_caches")
                started = time.monotonic()
                set_attribute(mountpoint, "drop_caches", 1)
                figure.add(LCFS, DRAIN, "s", time.monotonic() - started)
        figure.add(ONE_BY_ONE, DRAIN, "s", dirty / alone.rate)
    return [figure]
