# SPDX-License-Identifier: GPL-2.0-or-later
"""Flush: sealed records go from RAM to the cache image (dm-lc flush_proc, queue_flushing).

Records are written in the order in which they were sealed: all that is queued at a time, neighbours in one write, in
one thread hop. Writes to one file exclude each other in the kernel, so several at a time would only be several
threads. `written` is the log position up to which everything has returned from write(2). Making it durable is the
barrier's work (barrier.py); where little is written and a barrier waits for just that, it is flushed in the same hop.
"""

from __future__ import annotations

import errno
import logging
import math
from collections import deque
from collections.abc import Callable

import attrs
import trio

from lcfs.engine.block_store import BlockStore, FlushFailed
from lcfs.engine.write_buffer import WriteBuffer

log = logging.getLogger("lcfs.engine.flush")

WRITES_PER_HOP = 16
"""Segments, at most, that are written before room is given back."""
FLUSHED_ALONG = 256 << 10
"""Bytes up to which a write takes the barrier's flush along: nothing else is written meanwhile."""
ATTEMPTS = 3
BACKOFF = 0.1
"""Seconds before the second attempt; doubled for the third."""
NO_SPACE_RETRY = 1.0
"""Seconds between attempts while the image cannot grow."""


@attrs.define(eq=False)
class _Write:
    """Sealed records, neighbours in one buffer, that go out in one write."""

    buffer: WriteBuffer
    first: int
    """Byte offsets in the buffer."""
    end: int
    offset: int
    """Byte offset in the image."""
    end_position: int
    records: int = 1


class Flusher:
    """The flush daemon of one cache. `put` is synchronous; `run` does the I/O."""

    def __init__(
        self,
        store: BlockStore,
        written: int,
        *,
        on_written: Callable[[WriteBuffer, int], None],
        on_failed: Callable[[str], None],
        on_no_space: Callable[[bool], None],
        flush_lock: trio.Lock,
    ) -> None:
        self.written = written
        """Log position below which every record is on the image, though perhaps not durable."""
        self.flushed = written
        """Log position below which a write from here has flushed the image."""
        self.nr_records = 0
        """Records that were written."""
        self.nr_bytes = 0
        """Their bytes, headers included."""
        self.nr_errors = 0
        """Attempts to write that failed, for want of space too."""
        self.waits_for_space = False
        self._store = store
        self._on_written = on_written
        self._on_failed = on_failed
        self._on_no_space = on_no_space
        self._flush_lock = flush_lock
        self._flush_at = written
        self._queue: deque[_Write] = deque()
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._stopped = False

    def put(self, buffer: WriteBuffer, first: int, end: int, offset: int, end_position: int) -> None:
        """Queue the record at bytes `first..end` of `buffer` for the image at `offset`."""
        buffer.pending += 1
        last = self._queue[-1] if self._queue else None
        if last is not None and last.buffer is buffer and last.end == first:
            last.end, last.end_position = end, end_position
            last.records += 1
        else:
            self._queue.append(_Write(buffer, first, end, offset, end_position))
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether records wait to be written."""
        return bool(self._queue)

    async def wait_written(self, position: int, *, flush: bool = False) -> None:
        """Return when `written` reaches `position`, or when it will not for now: stopped, or no space.

        With `flush` the image may have been flushed as well: `flushed` tells.
        """
        if flush:
            self._flush_at = position
        while self.written < position and not self._stopped and not self.waits_for_space:
            await self._progress.wait()

    def stop(self) -> None:
        """Wake every waiter for good: nothing will be written any more."""
        self._stopped = True
        self._progress.set()
        self._wake.set()

    async def run(self) -> None:
        """Write what is queued, until cancelled or stopped by a failure."""
        while not self._stopped:
            while not self._queue and not self._stopped:
                self._wake = trio.Event()
                await self._wake.wait()
            writes = [self._queue.popleft() for _ in range(min(len(self._queue), WRITES_PER_HOP))]
            if writes and await self._write(writes):
                self._complete(writes)

    async def _write(self, writes: list[_Write]) -> bool:
        """True when all are on the image; False when the cache has failed.

        Writing again is safe: nothing was acknowledged on the strength of a write that failed.
        """
        extents = [(write.offset, [write.buffer.view[write.first : write.end]]) for write in writes]
        attempt = 1
        while True:
            try:
                if self._flushes_along(writes):
                    # free, as was just seen: nobody's flush that failed comes between
                    async with self._flush_lock:
                        await self._store.write_durably(extents)
                    self.flushed = writes[-1].end_position
                else:
                    await self._store.write_extents(extents)
            except FlushFailed as exc:
                self._on_failed(f"{self._store.name} could not be flushed: {exc.strerror or exc}")
                return False
            except OSError as exc:
                self.nr_errors += 1
                if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._set_no_space(True)
                    await trio.sleep(NO_SPACE_RETRY)
                    continue
                if attempt == ATTEMPTS:
                    self._on_failed(f"the log could not be written to {self._store.name}: {exc.strerror or exc}")
                    return False
                log.warning("write to %s failed (%s), attempt %d", self._store.name, exc, attempt)
                await trio.sleep(BACKOFF * math.pow(2, attempt - 1))
                attempt += 1
            else:
                self._set_no_space(False)
                return True

    def _flushes_along(self, writes: list[_Write]) -> bool:
        """Whether a barrier waits for these records and no others, they are few, and no flush is in flight."""
        is_last = self.flushed < self._flush_at == writes[-1].end_position and not self._queue
        return is_last and not self._flush_lock.locked() and sum(w.end - w.first for w in writes) <= FLUSHED_ALONG

    def _complete(self, writes: list[_Write]) -> None:
        for write in writes:
            self.written = write.end_position
            self.nr_records += write.records
            self.nr_bytes += write.end - write.first
            write.buffer.pending -= write.records
            self._on_written(write.buffer, write.end_position)
        self._tell()

    def _set_no_space(self, waits: bool) -> None:
        if waits != self.waits_for_space:
            self.waits_for_space = waits
            self._on_no_space(waits)
            if waits:
                self._tell()

    def _tell(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()
