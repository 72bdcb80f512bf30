# SPDX-License-Identifier: GPL-2.0-or-later
"""One load on one file, by fio: what it did, per second."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.machine import Trouble, run

MIB = 1 << 20


@attrs.frozen
class Load:
    """A pattern of requests, as fio's words."""

    name: str
    """How a report calls it."""
    pattern: str
    """fio's rw: write, randread …"""
    block: int
    depth: int = 1
    jobs: int = 1
    barrier: bool = False
    """fdatasync after each write."""

    @property
    def writes(self) -> bool:
        """Whether it leaves dirty data behind."""
        return "write" in self.pattern

    @property
    def is_sequential(self) -> bool:
        """Whether it is measured in bytes rather than in requests."""
        return not self.pattern.startswith("rand")

    @property
    def unit(self) -> str:
        """What `Outcome.rate` counts."""
        return "MiB/s" if self.is_sequential else "requests/s"


@attrs.frozen
class Outcome:
    """What came of a load."""

    rate: float
    """Requests per second; MiB per second for a sequential load."""
    requests: int
    latency_p50: float
    """Microseconds, complete; 0 where fio was not asked."""
    latency_p99: float


def apply(
    load: Load,
    file: Path | str,
    *,
    region: int,
    seconds: float,
    offset: int = 0,
    most: int = 0,
    ramp: float = 0.0,
    latency: bool = False,
    direct: bool = True,
) -> Outcome:
    """Run `load` on bytes `offset` to `offset + region` of `file` for `seconds`; raises Trouble when fio fails.

    `most` ends it earlier, after so many bytes. `ramp` seconds before are not counted. The disk file itself is meant to
    exist with its size: fio lays nothing out.
    """
    words = _words(load, file, region, offset, direct)
    if latency:
        words += ["--lat_percentiles=1", "--percentile_list=50:99"]
    else:
        words += ["--gtod_reduce=1"]
    words += [f"--runtime={round(seconds * 1000)}ms"]
    words += [f"--io_size={most // load.jobs}"] if most else ["--time_based"]
    if ramp:
        words += [f"--ramp_time={round(ramp * 1000)}ms"]
    return parse(run(*words), load)


def start(load: Load, file: Path, *, region: int, seconds: float, offset: int = 0) -> subprocess.Popen[str]:
    """Run `load` beside something else; `parse` takes its output."""
    words = [*_words(load, file, region, offset, True), f"--runtime={round(seconds * 1000)}ms", "--time_based"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def fill(file: Path | str, region: int, *, offset: int = 0) -> None:
    """Write every byte of a region once, sequentially, with data that does not compress, and make it durable."""
    load = Load("fill", "write", MIB, depth=4)
    run(*_words(load, file, region, offset, True), "--gtod_reduce=1", "--end_fsync=1", f"--io_size={region}")


def is_right(file: Path | str, region: int) -> bool:
    """Write checksummed 4-KiB blocks at random places, 16 at a time, and read them all back: whether every byte is right."""
    load = Load("verify", "randwrite", 4096, depth=16)
    words = _words(load, file, region, 0, True)
    words.remove("--norandommap")
    try:
        run(*words, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0")
    except Trouble as trouble:
        if "verify:" in str(trouble):
            return False
        raise
    return True


def _words(load: Load, file: Path | str, region: int, offset: int, direct: bool) -> list[str]:
    engine = "psync" if load.depth == 1 else "libaio"
    words = [
        "fio",
        "--name=load",
        f"--filename={str(file).replace(':', chr(92) + ':')}",
        f"--rw={load.pattern}",
        f"--bs={load.block}",
        f"--iodepth={load.depth}",
        f"--numjobs={load.jobs}",
        f"--ioengine={engine}",
        f"--direct={int(direct)}",
        f"--size={region}",
        f"--offset={offset}",
        "--thread",
        "--norandommap",
        "--randrepeat=0",
        "--group_reporting",
        "--invalidate=0",
        "--output-format=json",
    ]
    return [*words, "--fdatasync=1"] if load.barrier else words


def parse(text: str, load: Load) -> Outcome:
    """The outcome from fio's JSON. Raises Trouble when it holds an error or no request was done."""
    # a warning may come before the JSON
    document: dict[str, Any] = json.loads(text[text.index("{") :])
    jobs: Sequence[dict[str, Any]] = document["jobs"]
    job = jobs[0]
    if job["error"]:
        raise Trouble(f"fio, {load.name}: error {job['error']}")
    side = job["write" if load.writes else "read"]
    requests = int(side["total_ios"])
    if not requests:
        raise Trouble(f"fio, {load.name}: not one request was done")
    percentiles = side.get("lat_ns", {}).get("percentile", {})
    return Outcome(
        rate=side["bw_bytes"] / MIB if load.is_sequential else float(side["iops"]),
        requests=requests,
        latency_p50=percentiles.get("50.000000", 0) / 1000.0,
        latency_p99=percentiles.get("99.000000", 0) / 1000.0,
    )
