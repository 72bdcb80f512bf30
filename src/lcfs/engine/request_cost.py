# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request to a backing costs, in bytes it could have moved instead, from the time that writing back took.

A straight line through (bytes per request, seconds per request) of the latest jobs: its start is what a request costs
whatever its size, its slope what a byte costs. Jobs of requests that are all alike say nothing of the slope; then
USUAL_SLOPE counts.
"""

from __future__ import annotations

MIB = 1 << 20
MOST_PRICE = 4 * MIB
USUAL_SLOPE = 0.005
"""Seconds for each MiB: 200 MB/s."""
USUAL_WEIGHT = 0.01
"""How far requests must differ (the square of MiB, times jobs) until they count as much as USUAL_SLOPE."""
LEAST_SLOPE = 0.0001
FORGET = 0.9
"""What a job counts for when the next has been seen."""


class RequestCost:
    """A running estimate for one backing."""

    least = 0
    """Bytes below which the price does not fall. A test raises it, since time in memory costs nothing."""

    def __init__(self) -> None:
        self.nr_requests = 0
        """All that were ever noted."""
        self.nr_bytes = 0
        """Of all requests, those of reading spans included."""
        self._jobs = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was ever noted."""
        return self._jobs > 0

    def note(self, requests: int, length: int, seconds: float) -> None:
        """A job of so many requests (at least 1) with so many bytes in all took so long, its flush included."""
        self.nr_requests += requests
        self.nr_bytes += length
        x, y = length / requests / MIB, seconds / requests
        self._jobs = self._jobs * FORGET + 1
        self._x = self._x * FORGET + x
        self._y = self._y * FORGET + y
        self._xx = self._xx * FORGET + x * x
        self._xy = self._xy * FORGET + x * y

    @property
    def price(self) -> int:
        """Bytes that could be moved in the time that one more request takes; 0 while nothing is known."""
        if not self.known:
            return self.least
        spread = max(0.0, self._xx - self._x * self._x / self._jobs)
        together = self._xy - self._x * self._y / self._jobs
        slope = max(LEAST_SLOPE, (together + USUAL_WEIGHT * USUAL_SLOPE) / (spread + USUAL_WEIGHT))
        start = max(0.0, (self._y - slope * self._x) / self._jobs)
        return max(self.least, min(MOST_PRICE, int(start / slope * MIB)))
