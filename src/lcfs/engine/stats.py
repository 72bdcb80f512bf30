# SPDX-License-Identifier: GPL-2.0-or-later
"""The sixteen counters of dm-lc (STAT_WRITE, STAT_HIT, STAT_ON_BUFFER, STAT_FULLSIZE)."""

from __future__ import annotations

WRITE = 1
HIT = 2
ON_BUFFER = 4
FULLSIZE = 8
NR_COUNTERS = 16


class Stats:
    """`counters[w*1 + h*2 + b*4 + f*8]`: one count per 4-KiB piece of a request (dm-lc inc_stat)."""

    def __init__(self) -> None:
        self.counters = [0] * NR_COUNTERS

    def clear(self) -> None:
        """All sixteen to zero (dm-lc clear_stat). In place: the hot path holds the list."""
        self.counters[:] = [0] * NR_COUNTERS

    def rows(self) -> tuple[int, ...]:
        """The sixteen counts in dm-lc's index order."""
        return tuple(self.counters)

    def text(self) -> str:
        """Sixteen lines `<write> <hit> <on_buffer> <fullsize> <count>`; dm-lc left out the last (B38)."""
        return "".join(f"{i & 1} {i >> 1 & 1} {i >> 2 & 1} {i >> 3 & 1} {count}\n" for i, count in enumerate(self.counters))
