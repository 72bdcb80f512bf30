# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mount costs that nobody uses."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import fio
from benchmarks.bench import Bench
from benchmarks.figure import Figure
from benchmarks.figures.disk_file import WRITE_32
from benchmarks.machine import cpu_seconds

CPU = "processor time"
WAKEUPS = "wake-ups"
WRITTEN = "bytes written"


def measure(bench: Bench) -> Figure:
    """With default tunables and an open disk, from 5 s after the last write on."""
    pause, seconds = (5.0, 20.0) if not bench.quick else (2.0, 3.0)
    figure = Figure(
        "idle",
        "An idle mount",
        f"Default tunables, the disk file open. {pause:g} s after the last write, for {seconds:g} s.",
    )
    with bench.serving(("lcfs",), figure) as disks:
        for disk in disks.values():
            fio.apply(WRITE_32, disk.path, region=bench.scale.region, seconds=bench.scale.seconds)
            with open(disk.path, "rb"):
                time.sleep(pause)
                (pid,) = disk.pids
                before = cpu_seconds([pid]), wakeups(pid), written(pid)
                time.sleep(seconds)
                after = cpu_seconds([pid]), wakeups(pid), written(pid)
            used, woken, wrote = (late - early for late, early in zip(after, before, strict=True))
            figure.add(disk.name, CPU, "% of a core", 100.0 * used / seconds)
            figure.add(disk.name, WAKEUPS, "per second", woken / seconds)
            figure.add(disk.name, WRITTEN, "bytes", wrote)
    return figure


def wakeups(pid: int) -> int:
    """Times that any thread of a process has waited and was woken."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count


def written(pid: int) -> int:
    """Bytes that a process has handed to write(2) and its kin."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1])
    return 0
