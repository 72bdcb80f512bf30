# SPDX-License-Identifier: GPL-2.0-or-later
"""Barriers: making the log durable, many waiters to a flush (dm-lc queue_barrier_io, barrier_deadline_proc).

A barrier that finds nothing in flight is served at once. While a flush is in flight, others gather and
share the next one. When a flush let several go, their successors are likely on the way: the next flush
waits for as many, but never longer than barrier_deadline_ms after its first waiter came (B06).

Only one flush of an image is in flight at a time: the kernel reports a writeback error once per open file
(errseq), so of two concurrent flushes one could return success for data that the other was told is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from lcfs.engine.errors import LcfsError
from lcfs.engine.flush import Flusher


@attrs.define(eq=False)
class _Waiter:
    position: int
    arrived: float
    released: trio.Event = attrs.field(factory=trio.Event)


class Barriers:
    """The barrier daemon of one cache."""

    def __init__(
        self,
        flusher: Flusher,
        durable: int,
        *,
        seal: Callable[[], int],
        flush: Callable[[], Awaitable[None]],
        check: Callable[[], None],
        deadline: Callable[[], float],
        on_durable: Callable[[], None],
    ) -> None:
        self.durable = durable
        """Log position below which everything is durable."""
        self.flushes = 0
        self._flusher = flusher
        self._seal = seal
        self._flush = flush
        self._check = check
        self._deadline = deadline
        self._on_durable = on_durable
        self._waiters: list[_Waiter] = []
        self._arrival = trio.Event()
        self._company = 1

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a flush."""
        return bool(self._waiters)

    async def wait_durable(self, position: int) -> None:
        """Return when the log is durable up to `position`.

        Raises what `check` raises when the cache failed, and NoSpace while the image cannot grow.
        """
        self._check()
        while position > self.durable:
            waiter = _Waiter(position, trio.current_time())
            self._waiters.append(waiter)
            self._arrival.set()
            try:
                await waiter.released.wait()
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            if position > self.durable:
                self._check()

    def request(self, position: int) -> None:
        """Have the log made durable up to `position` some time soon; nobody waits for it."""
        if not self._waiters:
            self._waiters.append(_Waiter(position, trio.current_time()))
            self._arrival.set()

    def release_all(self) -> None:
        """Wake every waiter: `check` tells them why."""
        for waiter in self._waiters:
            waiter.released.set()
        self._waiters.clear()

    async def run(self) -> None:
        """Serve barriers until cancelled. Errors of the flush are the cache's: it releases everyone."""
        while True:
            while not self._waiters:
                self._arrival = trio.Event()
                await self._arrival.wait()
            await self._gather()
            if not self._waiters:
                continue
            goal = self._seal()
            await self._flusher.wait_written(goal, flush=True)
            if self._flusher.written < goal:
                self.release_all()
                continue
            if self._flusher.flushed < goal:
                try:
                    await self._flush()
                except LcfsError:
                    self.release_all()
                    continue
            self.flushes += 1
            self.durable = max(self.durable, goal)
            served = [waiter for waiter in self._waiters if waiter.position <= self.durable]
            self._waiters = [waiter for waiter in self._waiters if waiter.position > self.durable]
            for waiter in served:
                waiter.released.set()
            self._company = len(served)
            self._on_durable()

    async def _gather(self) -> None:
        end = self._waiters[0].arrived + self._deadline()
        with trio.move_on_at(end):
            while self._waiters and len(self._waiters) < self._company:
                self._arrival = trio.Event()
                await self._arrival.wait()
