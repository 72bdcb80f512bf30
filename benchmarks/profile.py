# SPDX-License-Identifier: GPL-2.0-or-later
"""`make profile`: where the time of a request goes.

Prints the cost of a request in microseconds of the server's processor time, split by taking servers apart: the C floor is
what kernel and libfuse cost, the drained floor adds pyfuse3 and the request loop, lcfs adds the engine; the loop's and the
engine's own code are also timed in this process, and so is what watching costs. Leaves in build/profile/, per load, what
perf and py-spy saw of lcfs.
"""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks import contestants, fio, parts, watching
from benchmarks.bench import FULL, Bench
from benchmarks.contestants import Disk, set_attribute
from benchmarks.figure import Figure
from benchmarks.figures.disk_file import BARRIER_1, READ_32, SEQUENTIAL_READ, SEQUENTIAL_WRITE, WRITE_32
from benchmarks.fio import Load
from benchmarks.machine import Trouble, run, user_and_system

RESULTS = contestants.CHECKOUT / "build" / "profile"
SERVERS = ("floor-c", "floor-drained", "lcfs")
RESTING = "lcfs, migration off"
WHO = (*SERVERS[:2], RESTING, "lcfs")
LOADS = (WRITE_32, READ_32, SEQUENTIAL_WRITE, SEQUENTIAL_READ, BARRIER_1)
SECONDS = 2.0
ROUNDS = 3


@attrs.frozen
class Cost:
    """Microseconds per request, of the server."""

    user: float
    system: float

    @property
    def total(self) -> float:
        """Both."""
        return self.user + self.system


def main() -> int:
    """The exit code."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="lcfs-profile-", dir="/var/tmp"))
    bench = Bench(attrs.evolve(FULL, seconds=SECONDS), directory, frozenset())
    try:
        bench.say("the parts, in this process")
        own, watched = parts.measure(directory), watching.measure(directory)
        with bench.serving(SERVERS, Figure("profile", "", "")) as disks:
            costs = {(load.name, name): _cost(bench, disk, load) for load in LOADS for name, disk in disks.items()}
            mountpoint = disks["lcfs"].path.parent.parent
            set_attribute(mountpoint, "update_interval", 0)
            set_attribute(mountpoint, "allow_migrate", 0)
            costs.update({(load.name, RESTING): _cost(bench, disks["lcfs"], load) for load in LOADS})
            set_attribute(mountpoint, "update_interval", 1)
            text = "\n".join([*_table(costs), "", *_split(own, costs), "", watched.text()]) + "\n"
            (RESULTS / "cost.md").write_text(text)
            print(text)
            for load in LOADS:
                bench.say(f"sampling lcfs: {load.name}")
                _sample(disks["lcfs"], load, bench.scale.disk)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    bench.say(f"samples: {RESULTS}")
    return 0


def _cost(bench: Bench, disk: Disk, load: Load) -> Cost:
    """The cheapest round: what others on the machine do only ever adds."""
    rounds = []
    for _ in range(ROUNDS):
        user, system = user_and_system(disk.pids[0])
        outcome = fio.apply(load, disk.path, region=bench.scale.region, seconds=SECONDS)
        more_user, more_system = user_and_system(disk.pids[0])
        rounds.append(Cost((more_user - user) / outcome.requests * 1e6, (more_system - system) / outcome.requests * 1e6))
        disk.settle()
    return min(rounds, key=lambda cost: cost.total)


def _table(costs: dict[tuple[str, str], Cost]) -> list[str]:
    lines = ["| µs of processor time per request (user + system) | " + " | ".join(WHO) + " |", "|---|" + "---:|" * len(WHO)]
    for load in LOADS:
        cells = [costs[load.name, name] for name in WHO]
        row = " | ".join(f"{cost.total:.1f} ({cost.user:.1f} + {cost.system:.1f})" for cost in cells)
        lines.append(f"| {load.name} | {row} |")
    return lines


def _split(own: parts.Parts, costs: dict[tuple[str, str], Cost]) -> list[str]:
    """Where lcfs's processor time goes, as differences between servers and the parts' own times."""
    engines = {
        WRITE_32.name: (own.write_line, own.copy_line),
        READ_32.name: (own.read_line, own.copy_line),
        SEQUENTIAL_WRITE.name: (own.write_run, own.copy_run),
        SEQUENTIAL_READ.name: (own.read_run, own.copy_run),
    }
    lines = [
        "| µs per request | kernel, libfuse | pyfuse3 | request loop | engine | its copy | writing the log | migration | all |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (engine, copy) in engines.items():
        floor, drained, resting, whole = (costs[name, who].total for who in WHO)
        pyfuse3 = drained - floor - own.loop
        cells = (floor, pyfuse3, own.loop, engine - copy, copy, resting - drained - engine, whole - resting, whole)
        lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    return lines


def _sample(disk: Disk, load: Load, region: int) -> None:
    """Run the load while perf and then py-spy look at lcfs."""
    name = load.name.replace(" ", "-").replace(",", "").replace("+", "and")
    pid = str(disk.pids[0])
    writer = fio.start(load, disk.path, region=region, seconds=4 * SECONDS)
    try:
        time.sleep(SECONDS / 2)
        with tempfile.TemporaryDirectory() as place:
            _perf(pid, Path(place) / "perf.data", RESULTS / f"{name}.perf.txt")
            _py_spy(pid, Path(place) / "stacks", RESULTS / f"{name}.py-spy.txt")
        writer.communicate(timeout=60)
    finally:
        if writer.poll() is None:
            writer.kill()
            writer.wait()
    disk.settle()


def _perf(pid: str, data: Path, report: Path) -> None:
    if shutil.which("perf") is None:
        report.write_text("perf is not installed (package linux-perf)\n")
        return
    try:
        run("perf", "record", "-F", "999", "-g", "-p", pid, "-o", data, "--", "sleep", str(SECONDS))
        by_object = run("perf", "report", "-i", data, "--no-children", "--sort", "comm,dso", "-g", "none", "--stdio")
        by_symbol = run("perf", "report", "-i", data, "--no-children", "--sort", "dso,symbol", "-g", "none", "--stdio")
        report.write_text("\n".join(line.rstrip() for line in (by_object + by_symbol).splitlines()) + "\n")
    except Trouble as trouble:
        report.write_text(f"perf could not sample: {trouble}\n")


def _py_spy(pid: str, stacks: Path, report: Path) -> None:
    """Who holds the interpreter, by line: its own share and with what it calls."""
    command = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if command is None:
        report.write_text("py-spy is not installed (pip install py-spy)\n")
        return
    words = [command, "record", "--gil", "--rate", "500", "--format", "raw", "--duration", str(round(SECONDS))]
    done = subprocess.run([*words, "--output", str(stacks), "--pid", pid], capture_output=True, text=True, check=False)
    if done.returncode:
        report.write_text(f"py-spy could not sample: {done.stderr}\n")
        return
    report.write_text("\n".join(_by_line(stacks.read_text().splitlines())) + "\n")


def _by_line(stacks: Sequence[str]) -> list[str]:
    own: collections.Counter[str] = collections.Counter()
    within: collections.Counter[str] = collections.Counter()
    for stack in stacks:
        frames, _, count = stack.rpartition(" ")
        names = frames.split(";")
        own[names[-1]] += int(count)
        for name in set(names):
            within[name] += int(count)
    total = sum(own.values()) or 1
    lines = ["itself:"]
    lines += [f"{100 * count / total:6.1f} %  {name}" for name, count in own.most_common(40)]
    lines += ["", "with what it calls:"]
    return lines + [f"{100 * count / total:6.1f} %  {name}" for name, count in within.most_common(60)]


if __name__ == "__main__":
    sys.exit(main())
