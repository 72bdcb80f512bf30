# SPDX-License-Identifier: GPL-2.0-or-later
"""How long requests took, from the histograms of MNT/metrics: quantiles of what happened between two looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

FAMILY = "lcfs_device_request_seconds_bucket"
OPS = ("read", "write", "barrier")

Buckets = Mapping[float, int]
"""Upper bound in seconds -> requests that took at most so long, infinity last: cumulative, as Prometheus has it."""


def added(histograms: Iterable[Buckets]) -> dict[float, int]:
    """All of them as one."""
    total: dict[float, int] = {}
    for buckets in histograms:
        for bound, count in buckets.items():
            total[bound] = total.get(bound, 0) + count
    return total


def quantile(before: Buckets, now: Buckets, share: float) -> float | None:
    """Seconds that the quickest `share` of the requests between two looks took at most; None: there were none.

    Within a bucket they are taken to be spread evenly, and beyond the last bound to have taken just that. Counters that
    went back were begun anew.
    """
    bounds = sorted(now)
    counts = [now[bound] - before.get(bound, 0) for bound in bounds]
    if any(count < 0 for count in counts):
        counts = [now[bound] for bound in bounds]
    if not counts or not counts[-1]:
        return None
    wanted = share * counts[-1]
    place = next(place for place, count in enumerate(counts) if count >= wanted)
    lower, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0)
    if math.isinf(bounds[place]):
        return lower
    return lower + (bounds[place] - lower) * (wanted - below) / max(1, counts[place] - below)


def quantiles(before: Mapping[str, Buckets], now: Mapping[str, Buckets]) -> dict[str, float | None]:
    """`read_p50_seconds`, `read_p99_seconds`, and so on for writes and barriers."""
    return {
        f"{op}_p{percent}_seconds": quantile(before.get(op, {}), now.get(op, {}), percent / 100)
        for op in OPS
        for percent in (50, 99)
    }


def short_time(seconds: float | None) -> str:
    """In at most five characters: `-`, `12us`, `3.4ms`, `1.2s`, `98s`."""
    if seconds is None:
        return "-"
    for unit, name in ((1e-6, "us"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * unit or name == "s":
            number = seconds / unit
            return f"{number:.1f}{name}" if number < 9.95 else f"{number:.0f}{name}"
    raise AssertionError
