# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures: each module has a `measure(bench)` that returns what it measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.bench import Bench
from benchmarks.figure import Figure
from benchmarks.figures import disk_file, drain, idle, latency, limited, memory, slow, start

ALL: dict[str, Callable[[Bench], Sequence[Figure]]] = {
    "file": disk_file.measure,
    "slow": slow.measure,
    "limited": limited.measure,
    "drain": drain.measure,
    "latency": latency.measure,
    "idle": idle.measure,
    "memory": memory.measure,
    "start": start.measure,
}
"""Name on the command line -> the measurement, in the order of the report."""
