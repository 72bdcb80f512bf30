# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the requests of a disk took: a histogram for each operation and each place that served it.

Flat lists of ints. Whoever times a request says what it counts for: the hot path times few of the requests that are
answered at once, and each of these stands for SAMPLED.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import attrs

READ, WRITE, BARRIER = range(3)
OPERATIONS = ("read", "write", "barrier")
RAM, IMAGE, BACKING = range(3)
SOURCES = ("ram", "image", "backing")

NR_BOUNDS = 24
FIRST_BOUND = 2000
"""Nanoseconds; each bound is twice the one before."""
BOUNDS = tuple((FIRST_BOUND << n) / 1e9 for n in range(NR_BOUNDS))
"""Seconds: 2 us to 16.8 s. A request that took exactly so long is within the bound."""
NR_BUCKETS = NR_BOUNDS + 1

SAMPLED = 32
"""Of the requests that are answered at once, about one in so many is timed, and counts for all of them."""
NR_GAPS = 4099
"""A prime: they are not in step with a load that repeats itself."""


def random_gaps() -> Iterator[int]:
    """Requests from one that is timed to the next, for ever: 1 to 63, SAMPLED on average.

    A fixed stride would see only the reads, or only the writes, of a load in which they take turns. They come from a
    long list, as a look at it costs a fifth of what a random number does.
    """
    return itertools.cycle([random.randrange(1, 2 * SAMPLED) for _ in range(NR_GAPS)])


@attrs.frozen
class Histogram:
    """Of one operation and source: how many requests took at most each of BOUNDS, and the seconds and number of all."""

    operation: str
    source: str
    within: tuple[int, ...]
    seconds: float
    count: int


class Latency:
    """Of one disk."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(OPERATIONS) * len(SOURCES) * NR_BUCKETS)
        self._nanoseconds = [0] * (len(OPERATIONS) * len(SOURCES))

    def add(self, operation: int, source: int, nanoseconds: int, weight: int = 1) -> None:
        """Count a request for `weight` of its kind."""
        kind = operation * len(SOURCES) + source
        bucket = ((nanoseconds - 1) // FIRST_BOUND).bit_length() if nanoseconds else 0
        if bucket > NR_BOUNDS:
            bucket = NR_BOUNDS
        self._buckets[kind * NR_BUCKETS + bucket] += weight
        self._nanoseconds[kind] += nanoseconds * weight

    def histograms(self) -> Iterator[Histogram]:
        """Those in which something was counted."""
        for kind, nanoseconds in enumerate(self._nanoseconds):
            buckets = self._buckets[kind * NR_BUCKETS : (kind + 1) * NR_BUCKETS]
            count = sum(buckets)
            if count:
                within = tuple(sum(buckets[: n + 1]) for n in range(NR_BOUNDS))
                operation, source = divmod(kind, len(SOURCES))
                yield Histogram(OPERATIONS[operation], SOURCES[source], within, nanoseconds / 1e9, count)
