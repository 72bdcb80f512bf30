# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cache knows of a disk: its address table, its backing and the state of writing back to it."""

from __future__ import annotations

import trio

from lcfs.engine.backing_load import BackingLoad
from lcfs.engine.block_store import BlockStore
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import LineTable
from lcfs.engine.request_cost import RequestCost
from lcfs.engine.tunables import MIGRATE_THRESHOLD

FIRST_BACKOFF = 1.0
LAST_BACKOFF = 30.0
ATTEMPTS = 3
"""Failures in a row, FIRST_BACKOFF and twice that apart, after which writers that wait get the error."""
FIRST_PACED = 64
HUNG_AFTER = 5.0
"""Seconds after which others do not wait for a backing any more."""


class CachedDevice:
    """A disk as its cache sees it. `Device` adds what a user of the disk sees."""

    def __init__(self, number: int, size: int, store: BlockStore | None) -> None:
        self.id = number
        self.size = size
        """Bytes, a multiple of 512."""
        self.store = store
        """The backing; None while it is missing."""
        self.table = LineTable(0)
        """Made for the disk's size when it is attached."""
        self.nr_dirty_caches = 0
        """Lines with any dirty bit, in RAM or on the image. The cache counts it (B25)."""
        self.writeback = trio.Lock()
        """Held while lines are written to the backing, so that they land in version order (B08)."""
        self.migrate_threshold = MIGRATE_THRESHOLD.default
        """Percent of load of the backing above which migration rests."""
        self.cost = RequestCost()
        """What a request to the backing costs."""
        self.load = BackingLoad()
        """How busy the backing is."""
        self.paced_lines = FIRST_PACED
        """Lines of a step of writing back while migration is paced."""
        self.fault = ""
        """Why the backing cannot be written just now; empty when it can."""
        self.retry_at = 0.0
        """Not before this time (trio clock) is a faulty backing tried again."""
        self.nr_read_errors = 0
        """Reads of the backing that failed."""
        self.nr_write_errors = 0
        """Jobs of writing back that failed at it."""
        self.late_at = float("inf")
        """When (trio clock) what is being written to the backing counts as late; infinity while nothing is."""
        self._failures = 0
        self._backoff = FIRST_BACKOFF

    @property
    def given_up(self) -> bool:
        """Whether the backing failed so often in a row that its writers do not wait for it any more."""
        return self._failures >= ATTEMPTS

    @property
    def late(self) -> bool:
        """Whether the backing has been at one step of writing back for long: it is slow or hung."""
        return self.late_at <= trio.current_time()

    @property
    def struggling(self) -> bool:
        """Whether its lines stay in the cache longer than those of a disk that keeps up."""
        return self.store is None or self.fault != "" or self.late

    @property
    def nr_lines(self) -> int:
        """Lines the disk has, the last perhaps in part."""
        return -(-self.size // LINE)

    @property
    def stuck(self) -> bool:
        """Whether its dirty lines cannot be migrated now."""
        resting = self.fault != "" and trio.current_time() < self.retry_at
        return self.store is None or self.late or resting

    def mark_faulty(self, reason: str) -> None:
        """The backing failed: keep its lines, try again later, each time after a longer while."""
        self.fault = reason
        self.nr_write_errors += 1
        self._failures += 1
        self.retry_at = trio.current_time() + self._backoff
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)

    def mark_well(self) -> None:
        """The backing took a write and a flush."""
        self.fault = ""
        self._failures = 0
        self._backoff = FIRST_BACKOFF
