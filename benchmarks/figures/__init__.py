# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures: each module has a `measure(bench)` that returns what it measured."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.figure import Figure
from benchmarks.figures import disk_file

ALL: dict[str, Callable[[Bench], Figure]] = {
    "file": disk_file.measure,
}
"""Name on the command line and of the SVG -> the measurement, in the order of the report."""
