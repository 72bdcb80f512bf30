# SPDX-License-Identifier: GPL-2.0-or-later
"""A reader of cached lines, alone and beside a saturating writer and migration."""

from __future__ import annotations

from benchmarks import fio
from benchmarks.bench import Bench
from benchmarks.contestants import set_attribute
from benchmarks.figure import Figure
from benchmarks.fio import Load

ALONE = "reader alone, p99"
BESIDE = "reader beside a writer and migration, p99"
UNIT = "µs"
READER = Load("reader", "randread", 4096)
WRITER = Load("writer", "randwrite", 4096, depth=32)


def measure(bench: Bench) -> list[Figure]:
    """Both, in turn."""
    scale = bench.scale
    seconds = 3 * scale.seconds
    figure = Figure(
        "latency",
        "Latency of a reader of cached lines",
        f"Random reads of 4 KiB, one at a time, from {scale.region >> 20} MiB of cached lines, for {seconds:g} s: alone, and "
        "beside random writes of 4 KiB, qd 32, to the rest of the disk, with force_migrate.",
    )
    with bench.serving(("lcfs",), figure) as disks:
        for disk in disks.values():
            mountpoint = disk.path.parent.parent
            set_attribute(mountpoint, "force_migrate", 1)
            for turn in range(scale.few_rounds):
                bench.say(f"latency: round {turn + 1} of {scale.few_rounds}")
                fio.fill(disk.path, scale.region)
                disk.settle()
                alone = fio.apply(READER, disk.path, region=scale.region, seconds=seconds, latency=True)
                rest = {"region": scale.disk - scale.region, "offset": scale.region}
                writer = fio.start(WRITER, disk.path, seconds=seconds + 2, **rest)
                try:
                    beside = fio.apply(READER, disk.path, region=scale.region, seconds=seconds, ramp=0.5, latency=True)
                    output, _ = writer.communicate(timeout=seconds + 30)
                finally:
                    if writer.poll() is None:
                        writer.kill()
                        writer.wait()
                disk.settle()
                figure.add(disk.name, ALONE, UNIT, alone.latency_p99)
                figure.add(disk.name, BESIDE, UNIT, beside.latency_p99)
                figure.add(disk.name, "the writer meanwhile", WRITER.unit, fio.parse(output, WRITER).rate)
    return [figure]
