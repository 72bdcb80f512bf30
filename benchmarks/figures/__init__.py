# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures: each module has a `measure(bench)` that returns what it measured."""

from __future__ import annotations

import functools
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.figure import Figure
from benchmarks.figures import disk_file, drain, idle, latency, limited, loop, memory, slow, start

ALL: dict[str, Callable[[Bench], Figure]] = {
    "file": disk_file.measure,
    "loop-direct": functools.partial(loop.measure, direct=True),
    "loop-buffered": functools.partial(loop.measure, direct=False),
    "slow": slow.measure,
    "limited": limited.measure,
    "drain": drain.measure,
    "latency": latency.measure,
    "idle": idle.measure,
    "memory": memory.measure,
    "start": start.measure,
}
"""Name on the command line and of the SVG -> the measurement, in the order of the report."""
