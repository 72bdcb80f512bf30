# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request costs: every contestant's disk file with O_DIRECT."""

from __future__ import annotations

from benchmarks import fio
from benchmarks.bench import Bench, measure_round
from benchmarks.figure import Figure
from benchmarks.fio import Load
from benchmarks.machine import Trouble

LINE, MIB = 4096, 1 << 20

READ_1 = Load("random read, qd 1", "randread", LINE)
READ_32 = Load("random read, qd 32", "randread", LINE, depth=32)
SEQUENTIAL_READ = Load("sequential read, 1 MiB", "read", MIB, depth=4)
SCATTERED_READ = Load("sequential read after random writes", "read", MIB, depth=4)
WRITE_1 = Load("random write, qd 1", "randwrite", LINE)
WRITE_32 = Load("random write, qd 32", "randwrite", LINE, depth=32)
SEQUENTIAL_WRITE = Load("sequential write, 1 MiB", "write", MIB, depth=4)
BARRIER_1 = Load("write + fdatasync, 1 job", "randwrite", LINE, barrier=True)
BARRIER_16 = Load("write + fdatasync, 16 jobs", "randwrite", LINE, jobs=16, barrier=True)

EVERYBODY = ("raw", "floor-c", "floor-pyfuse3", "floor-drained", "lcfs", "qemu", "nbdkit")


def measure(bench: Bench) -> Figure:
    """Reads of what was just written, then writes, then barriers."""
    scale = bench.scale
    figure = Figure(
        "file",
        "Requests to the disk file, O_DIRECT",
        f"fio on the disk file of {scale.disk >> 20} MiB with O_DIRECT, {scale.seconds:g} s per load, {scale.rounds} "
        "interleaved rounds. Reads go to a region that was written sequentially before each round and is in everybody's "
        "cache, but for the raw file, whose O_DIRECT reads go to the device. After each write load a contestant finishes what "
        "it put off (fsync; lcfs migrates all dirty lines), uncounted, so that it does not run while the next is measured. "
        "What the floors read and write does not exist.",
    )
    with bench.serving(EVERYBODY, figure) as disks:
        keepers = {name: disk for name, disk in disks.items() if not name.startswith("floor")}
        for turn in range(scale.rounds):
            bench.say(f"file: round {turn + 1} of {scale.rounds}")
            for disk in keepers.values():
                fio.fill(disk.path, scale.region)
                disk.settle()
            measure_round(figure, disks, (READ_1, READ_32, SEQUENTIAL_READ), scale, turn, region=scale.region)
            measure_round(figure, disks, (WRITE_1, WRITE_32), scale, turn, region=scale.disk)
            measure_round(figure, keepers, (SCATTERED_READ,), scale, turn, region=scale.disk)
            measure_round(figure, disks, (SEQUENTIAL_WRITE,), scale, turn, region=scale.disk)
            measure_round(figure, keepers, (BARRIER_1, BARRIER_16), scale, turn, region=scale.region)
        wrong = [name for name, disk in keepers.items() if not fio.is_right(disk.path, scale.region // 8)]
        if "lcfs" in wrong:
            raise Trouble("lcfs gave back other bytes than fio had written")
        figure.notes.append("Afterwards fio wrote checksummed blocks to all that keep them, 16 at a time, and read them back.")
        figure.notes += [f"**`{name}` gave back other bytes than were written to it.**" for name in wrong]
    return figure
