# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request costs: on the disk file with O_DIRECT, and on a loop device over it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from benchmarks import fio
from benchmarks.bench import Bench, measure_round
from benchmarks.contestants import Disk
from benchmarks.figure import Figure
from benchmarks.fio import Load
from benchmarks.machine import Trouble, loop_device

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


Disks = Mapping[str, Disk]


def measure(bench: Bench) -> list[Figure]:
    """Three figures of the same contestants, which are started once."""
    on_file, through_direct, through_cache = _figures(bench)
    with bench.serving(EVERYBODY, on_file) as disks:
        _on_file(bench, on_file, disks)
        on_loops = {name: disk for name, disk in disks.items() if name != "floor-pyfuse3"}
        _on_loop(bench, through_direct, on_loops, direct=True)
        _on_loop(bench, through_cache, on_loops, direct=False)
        keepers = _keepers(disks)
        wrong = [name for name, disk in keepers.items() if not fio.is_right(disk.path, bench.scale.region // 8)]
    if "lcfs" in wrong:
        raise Trouble("lcfs gave back other bytes than fio had written")
    on_file.notes.append("Afterwards fio wrote checksummed blocks to all that keep them, 16 at a time, and read them back.")
    on_file.notes += [f"**`{name}` gave back other bytes than were written to it.**" for name in wrong]
    return [on_file, through_direct, through_cache]


def _figures(bench: Bench) -> tuple[Figure, Figure, Figure]:
    scale = bench.scale
    return (
        Figure(
            "file",
            "Requests to the disk file, O_DIRECT",
            f"fio on the disk file of {scale.disk >> 20} MiB with O_DIRECT, {scale.seconds:g} s per load, {scale.rounds} "
            "interleaved rounds. Reads go to a region that was written sequentially before each round and is in everybody's "
            "cache, but for the raw file, whose O_DIRECT reads go to the device. After each write load a contestant finishes "
            "what it put off (fsync; lcfs migrates all dirty lines), uncounted, so that it does not run while the next is "
            "measured. What the floors read and write does not exist.",
        ),
        Figure(
            "loop-direct",
            "Requests to a loop device over the disk file, losetup --direct-io=on",
            f"As before, {scale.few_rounds} rounds, but fio's O_DIRECT requests go to a loop device on the disk file, which "
            "hands them on as they are.",
        ),
        Figure(
            "loop-buffered",
            "Requests to a loop device over the disk file, losetup --direct-io=off",
            f"As before, {scale.few_rounds} rounds, but the loop driver sends one request at a time through the disk file's "
            "page cache.",
        ),
    )


def _keepers(disks: Disks) -> Disks:
    return {name: disk for name, disk in disks.items() if not name.startswith("floor")}


def _fill(disks: Disks, region: int, paths: Mapping[str, str] | None = None) -> None:
    for name, disk in disks.items():
        fio.fill(disk.path if paths is None else paths[name], region)
        disk.settle()


def _on_file(bench: Bench, figure: Figure, disks: Disks) -> None:
    scale, keepers = bench.scale, _keepers(disks)
    for turn in range(scale.rounds):
        bench.say(f"{figure.name}: round {turn + 1} of {scale.rounds}")
        _fill(keepers, scale.region)
        measure_round(figure, disks, (READ_1, READ_32, SEQUENTIAL_READ), scale, turn, region=scale.region)
        measure_round(figure, disks, (WRITE_1, WRITE_32), scale, turn, region=scale.disk)
        measure_round(figure, keepers, (SCATTERED_READ,), scale, turn, region=scale.disk)
        measure_round(figure, disks, (SEQUENTIAL_WRITE,), scale, turn, region=scale.disk)
        measure_round(figure, keepers, (BARRIER_1, BARRIER_16), scale, turn, region=scale.region)


def _on_loop(bench: Bench, figure: Figure, disks: Disks, *, direct: bool) -> None:
    scale, keepers = bench.scale, _keepers(disks)
    reads: Sequence[Load] = (READ_32, SEQUENTIAL_READ)
    writes: Sequence[Load] = (WRITE_32, SEQUENTIAL_WRITE)
    barriers: Sequence[Load] = (BARRIER_1, BARRIER_16)
    if bench.quick:
        reads, writes, barriers = reads[:1], writes[:1], barriers[:1]
    with contextlib.ExitStack() as loops:
        paths = {name: loops.enter_context(loop_device(disk.path, direct=direct)) for name, disk in disks.items()}
        for turn in range(scale.few_rounds):
            bench.say(f"{figure.name}: round {turn + 1} of {scale.few_rounds}")
            _fill(keepers, scale.region, paths)
            measure_round(figure, disks, reads, scale, turn, region=scale.region, paths=paths)
            measure_round(figure, disks, writes, scale, turn, region=scale.disk, paths=paths)
            measure_round(figure, keepers, barriers, scale, turn, region=scale.region, paths=paths)
