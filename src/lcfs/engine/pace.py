# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast migration goes: whether it may, and what share of the time. Decides only; `migrate` does the waiting.

All of the time when a writer waits for room. While allow_migrate is 1, what the load of the backings leaves
(`modulator`). And between a high watermark of segments in use and a low one, whatever the load, the more the less is
free: a busy disk never ends in a full cache.
"""

from __future__ import annotations

from collections.abc import Callable

from lcfs.engine.log import HIGH_WATERMARK, LOW_WATERMARK
from lcfs.engine.ring import Ring

STEP = 0.1
"""Seconds that a step of writing back should take when it has not all of the time; it rests between two."""
LEAST_SHARE = 0.05
MOST_REST = 10.0


class Pace:
    """Of one cache."""

    def __init__(
        self,
        ring: Ring,
        *,
        allowed: Callable[[], bool],
        share: Callable[[], float],
        watermarks: Callable[[], bool],
        starved: Callable[[], bool],
    ) -> None:
        self.allowed = allowed
        """Whether the load, or an operator, allows it."""
        self.starved = starved
        """Whether a writer waits for room."""
        self._ring = ring
        self._share = share
        self._watermarks = watermarks
        self._above = False

    @property
    def may_go(self) -> bool:
        """Whether there is any reason to write back now."""
        return self.starved() or self._is_filling() or self.allowed()

    def _is_filling(self) -> bool:
        """Whether the segments in use went above the high watermark and are not yet down at the low one."""
        nr_free, nr_segments = self._ring.nr_free, self._ring.geometry.nr_segments
        self._above = nr_free * (LOW_WATERMARK if self._above else HIGH_WATERMARK) < nr_segments
        return self._above and self._watermarks()

    @property
    def share(self) -> float:
        """Of the time, what migration may take; 1 is all."""
        if self.starved():
            return 1.0
        share = self._share() if self.allowed() else 0.0
        if self._is_filling():
            share = max(share, 1.0 - self._ring.nr_free * LOW_WATERMARK / self._ring.geometry.nr_segments)
        return max(share, LEAST_SHARE)

    def rest(self, took: float) -> float:
        """Seconds to rest after so many of work."""
        return min(took * (1 / self.share - 1), MOST_REST)

    @property
    def activity(self) -> str:
        """`idle`, `migrating` or `waiting`, and how."""
        if self._ring.tail > self._ring.last_closed:
            return "idle"
        if self.starved():
            return "migrating writers wait for room"
        if self.allowed():
            return f"migrating for {100 * self.share:.0f} % of the time"
        if self._is_filling():
            return f"migrating for {100 * self.share:.0f} % of the time, since the cache fills"
        return "waiting"


def next_step(lines: int, took: float, most: int) -> int:
    """Lines of the next step after one of so many lines took so long."""
    if took < STEP / 2:
        return min(2 * lines, most)
    return max(lines // 2, 1) if took > 2 * STEP else lines
