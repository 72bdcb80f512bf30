# SPDX-License-Identifier: GPL-2.0-or-later
"""Dirty lines of the image whose reading fails: how long that is taken for something that passes.

A wrong CRC, read several times, is the medium's last word. A read that *fails* may be a device that is away for a
while, and its data may be as good as ever. So such a line stays what it is, dirty and in its place, and is tried
again and again, after longer and longer pauses. Only where the ring is full and writers wait for its segment, only
after PATIENCE seconds, and only where other blocks of the image can be read, is it given up and counts as damaged
(`Migrator._make_way`): then it is the sector that is gone, and not the device. While the device is away those writers
get ENOSPC.
"""

from __future__ import annotations

import trio

from lcfs.engine.ring import Indices, Ring

PATIENCE = 60.0
"""Seconds that a line must have been unreadable before it may be given up for writers that wait."""
FIRST_RETRY = 1.0
LAST_RETRY = 30.0
"""Seconds between two attempts, doubled from the first to the last."""


class Unreadable:
    """The lines that could not be read when that was last tried, by their log positions."""

    def __init__(self, ring: Ring) -> None:
        self.retry_at = 0.0
        """Not before this time (trio clock) are they tried again."""
        self._ring = ring
        self._since: dict[int, float] = {}
        self._pause = FIRST_RETRY

    def __bool__(self) -> bool:
        return bool(self._since)

    def note(self, positions: list[int]) -> list[int]:
        """These lines could not be read just now; returns those of which that is news."""
        if not positions:
            return []
        now = trio.current_time()
        news = [position for position in positions if position not in self._since]
        self._since.update(dict.fromkeys(news, now))
        if now >= self.retry_at:
            self.retry_at = now + self._pause
            self._pause = min(2 * self._pause, LAST_RETRY)
        return news

    def forget(self, positions: list[int]) -> None:
        """These lines could be read."""
        if self._since:
            for position in positions:
                self._since.pop(position, None)
            if not self._since:
                self._pause, self.retry_at = FIRST_RETRY, 0.0

    def try_now(self) -> None:
        """Somebody asks for it: the next attempt needs no pause before it."""
        self._pause, self.retry_at = FIRST_RETRY, 0.0

    def resting(self, positions: Indices) -> list[bool]:
        """Which lines are not to be tried just now."""
        rests = bool(self._since) and trio.current_time() < self.retry_at
        return [rests and position in self._since for position in positions.tolist()]

    def over(self, position: int) -> bool:
        """Whether patience with a line has ended."""
        return trio.current_time() - self._since.get(position, float("inf")) >= PATIENCE

    def count(self, number: int | None = None) -> int:
        """How many of them still are dirty, of disk `number` or of all. Forgets the others."""
        ring = self._ring
        for position in list(self._since):
            if ring.geometry.segment_of(position) < ring.tail or not ring.states.dirty[self._index(position)]:
                del self._since[position]
        if number is None:
            return len(self._since)
        return sum(ring.states.device[self._index(position)] == number for position in self._since)

    def _index(self, position: int) -> int:
        segment_id, block = divmod(position, self._ring.geometry.blocks_per_segment)
        return self._ring.geometry.start_block(segment_id) + block
