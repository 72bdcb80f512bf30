# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mount costs that nobody uses."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import fio
from benchmarks.bench import Bench
from benchmarks.figure import Figure
from benchmarks.figures.disk_file import WRITE_32
from benchmarks.machine import Trouble, cpu_seconds, soon

CPU = "processor time"
WAKEUPS = "wake-ups"
WRITTEN = "bytes written"
PATIENCE = 60.0


def measure(bench: Bench) -> list[Figure]:
    """With default tunables and an open disk, from 5 s after the last write, or what came of it, on."""
    pause, seconds = (5.0, 20.0) if not bench.quick else (2.0, 3.0)
    figure = Figure(
        "idle",
        "An idle mount",
        f"Default tunables, the disk file open. {pause:g} s after what was written has been migrated, for {seconds:g} s.",
    )
    with bench.serving(("lcfs",), figure) as disks:
        for disk in disks.values():
            fio.apply(WRITE_32, disk.path, region=bench.scale.region, seconds=bench.scale.seconds)
            with open(disk.path, "rb"):
                mountpoint = disk.path.parent.parent
                if not soon(lambda at=mountpoint: is_idle(at), PATIENCE):  # type: ignore[misc]
                    raise Trouble(f"{mountpoint} still migrates {PATIENCE:g} s after the last write")
                time.sleep(pause)
                (pid,) = disk.pids
                used, woken, wrote = cpu_seconds([pid]), wakeups(pid), written(pid)
                time.sleep(seconds)
                figure.add(disk.name, CPU, "% of a core", 100.0 * (cpu_seconds([pid]) - used) / seconds)
                # a worker thread that nobody needs ends by itself, and its count with it
                late = sum(count - woken.get(thread, 0) for thread, count in wakeups(pid).items())
                figure.add(disk.name, WAKEUPS, "per second", late / seconds)
                figure.add(disk.name, WRITTEN, "bytes", written(pid) - wrote)
    return [figure]


def is_idle(mountpoint: Path) -> bool:
    """Whether there is nothing left to migrate but what is in the open segment."""
    return (mountpoint / "caches" / "1" / "migration").read_text() == "idle\n"


def wakeups(pid: int) -> dict[str, int]:
    """Thread -> times that it has waited and was woken."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        counts[task.name] = next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return counts


def written(pid: int) -> int:
    """Bytes that a process has handed to write(2) and its kin."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1])
    return 0
