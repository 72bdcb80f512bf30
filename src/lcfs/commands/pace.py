# SPDX-License-Identifier: GPL-2.0-or-later
"""How quickly long work goes on, and when it will be done, from how much is left now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 30.0
"""Seconds over which the rate is taken."""
LEAST = 1.0
"""Seconds before which nothing is said: the first steps tell little."""


def lines(rate: float) -> str:
    """A rate of lines of 4 KiB."""
    return f"{rate / 256:.1f} MiB/s"


def segments(rate: float) -> str:
    """A rate of segments."""
    return f"{rate:.1f} segments/s"


class Pace:
    """Called with what is left, it gives a clause with the rate, in the words of `unit`, and the remaining time.

    The clause begins with a comma. It is empty while there is no telling.
    """

    def __init__(self, unit: Callable[[float], str] = lines, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit = unit
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, left: int) -> str:
        now = self._clock()
        self._seen.append((now, left))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        if now - since < LEAST or left >= before:
            return ""
        rate = (before - left) / (now - since)
        minutes, seconds = divmod(round(left / rate), 60)
        hours, minutes = divmod(minutes, 60)
        remaining = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f", {self._unit(rate)}, {remaining} left"
