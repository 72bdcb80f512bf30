# SPDX-License-Identifier: GPL-2.0-or-later
"""The same disk files behind a loop device, with direct I/O and through the loop device's page cache."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from benchmarks import fio
from benchmarks.bench import Bench, measure_round
from benchmarks.figure import Figure
from benchmarks.figures.disk_file import BARRIER_1, BARRIER_16, READ_32, SEQUENTIAL_READ, SEQUENTIAL_WRITE, WRITE_32
from benchmarks.fio import Load
from benchmarks.machine import loop_device

WHO = ("raw", "floor-c", "floor-drained", "lcfs", "qemu", "nbdkit")


def measure(bench: Bench, *, direct: bool) -> Figure:
    """Reads, writes, barriers."""
    scale = bench.scale
    rounds = max(1, scale.rounds // 2)
    reads: Sequence[Load] = (READ_32, SEQUENTIAL_READ)
    writes: Sequence[Load] = (WRITE_32, SEQUENTIAL_WRITE)
    barriers: Sequence[Load] = (BARRIER_1, BARRIER_16)
    if bench.quick:
        reads, writes, barriers = reads[:1], writes[:1], barriers[:1]
    name = "loop-direct" if direct else "loop-buffered"
    figure = Figure(
        name,
        f"Requests to a loop device over the disk file, losetup --direct-io={'on' if direct else 'off'}",
        f"As before, but fio's O_DIRECT requests go to a loop device that is bound to the disk file; {rounds} rounds. "
        + (
            "The loop device hands them on as they are."
            if direct
            else "The loop driver sends one request at a time through the page cache of the file below."
        ),
    )
    with bench.serving(WHO, figure) as disks, contextlib.ExitStack() as loops:
        keepers = {name: disk for name, disk in disks.items() if not name.startswith("floor")}
        paths = {name: loops.enter_context(loop_device(disk.path, direct=direct)) for name, disk in disks.items()}
        for turn in range(rounds):
            bench.say(f"{name}: round {turn + 1} of {rounds}")
            for other, disk in keepers.items():
                fio.fill(paths[other], scale.region)
                disk.settle()
            measure_round(figure, disks, reads, scale, turn, region=scale.region, paths=paths)
            measure_round(figure, disks, writes, scale, turn, region=scale.disk, paths=paths)
            measure_round(figure, keepers, barriers, scale, turn, region=scale.region, paths=paths)
    return figure
