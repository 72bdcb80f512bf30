# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports in a regular interval, and numbers as short as a column wants them."""

from __future__ import annotations

import time
from collections.abc import Iterator

SHORTEST, LONGEST = 0.1, 86400
"""Seconds between two reports."""


def rounds(interval: float, count: int) -> Iterator[int]:
    """0, 1, 2 ... at the times at which reports are due, however long a report takes. Count 0: no end."""
    due = time.monotonic()
    number = 0
    while True:
        yield number
        number += 1
        if not interval or number == count:
            return
        due = max(due + interval, time.monotonic() - interval)
        time.sleep(max(0.0, due - time.monotonic()))


def short_size(number: float) -> str:
    """Bytes in at most five characters, as zpool iostat prints them."""
    units = ["", "K", "M", "G", "T"]
    while number >= 1000 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.0f}{units[0]}" if not units[0] or number >= 100 else f"{number:.3g}{units[0]}"


def short_percent(share: float | None) -> str:
    """Whole percent; `-` where it is not known."""
    return "-" if share is None else f"{share:.0f}%"
