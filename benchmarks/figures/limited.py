# SPDX-License-Identifier: GPL-2.0-or-later
"""dm-lc's claim: random writes at the sequential bandwidth of the SSD, which is limited here to different rates."""

from __future__ import annotations

from benchmarks import fio
from benchmarks.bench import MIB, Bench
from benchmarks.contestants import Site, lcfs_mount, set_attribute
from benchmarks.figure import Figure
from benchmarks.fio import Load
from benchmarks.storage import limited_ssd, sparse_file, why_no_nbd, written_file

RATES = (64, 128, 266)
"""10^6 bytes per second; 266 MB/s was the SSD of 2013."""
UNIT = "MB/s"
SSD_SEQUENTIAL = "the SSD, sequential writes"
SSD_RANDOM = "the SSD, random writes"
LCFS_RANDOM = "lcfs, random writes"

SEQUENTIAL = Load("sequential", "write", MIB, depth=4)
RANDOM = Load("random", "randwrite", 4096, depth=32)


def load_name(rate: int) -> str:
    """How the report calls a rate."""
    return f"limit {rate} {UNIT}"


def measure(bench: Bench) -> list[Figure]:
    """Per rate: the SSD alone, sequentially; then lcfs with its cache image on it, random 4 KiB."""
    seconds, ramp = (4.0, 2.0) if not bench.quick else (0.4, 0.1)
    rounds = bench.scale.few_rounds
    disk = bench.scale.disk
    figure = Figure(
        "limited",
        "Random 4 KiB writes on an SSD of limited bandwidth",
        "nbdkit's rate filter through nbdfuse holds the cache image. First the SSD itself: 1 MiB sequential and 4 KiB random, "
        f"O_DIRECT. Then random writes of 4 KiB, qd 32, to lcfs's disk file of {disk >> 20} MiB. {ramp:g} s pass before "
        f"each measurement of {seconds:g} s, so that RAM buffers are full and the limiter's allowance for bursts is used up. "
        "Migration is off (update_interval 0), as it is in dm-lc by default.",
    )
    reason = why_no_nbd()
    if reason:
        figure.absent["limited SSD"] = reason
        return [figure]
    # what is written at the highest rate before and while it is measured, and the buffers
    size = round(max(RATES) * 1_000_000 * (seconds + ramp) * 1.3) // MIB * MIB + 128 * MIB
    place = bench.fresh("limited")
    image = written_file(place / "image", size)
    for turn in range(rounds):
        for rate in RATES:
            bench.say(f"limited: round {turn + 1} of {rounds}, {rate} {UNIT}")
            load = load_name(rate)
            limit = rate * 1_000_000
            backing = sparse_file(place / "disk.img", disk)
            with limited_ssd(place / "ssd", image, limit) as ssd:
                sequential = fio.apply(SEQUENTIAL, ssd, region=size, seconds=seconds, ramp=ramp).rate * MIB
                random = fio.apply(RANDOM, ssd, region=size, seconds=seconds / 2).rate * 4096
                figure.add(SSD_SEQUENTIAL, load, UNIT, sequential / 1e6)
                figure.add(SSD_RANDOM, load, UNIT, random / 1e6)
                with lcfs_mount(Site(place, backing, disk, ssd, size)) as served:
                    mountpoint = served.path.parent.parent
                    set_attribute(mountpoint, "update_interval", 0)
                    set_attribute(mountpoint, "allow_migrate", 0)
                    written = fio.apply(RANDOM, served.path, region=disk, seconds=seconds, ramp=ramp).rate * 4096
                figure.add(LCFS_RANDOM, load, UNIT, written / 1e6)
    return [figure]
