# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that forgets at a crash what was not flushed, in front of one that never does."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import trio

from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.engine.geometry import SECTOR
from lcfs.testing.layer import Layer
from lcfs.testing.unsynced import ALL, Choose, UnsyncedWrite, UnsyncedWrites


class CrashStore(Layer):
    """A disk's volatile write cache: writes stay here, `next` gets them at a flush.

    Put it on a real file and kill the process: what was not flushed is gone, as after a loss of power.
    `crash` does the same within the process, with a choice of what survives. `MemoryStore` has this built
    in; this layer is for stores that do not.
    """

    def __init__(self, next: BlockStore) -> None:
        super().__init__(next)
        self.unsynced = UnsyncedWrites()
        self.frozen = False
        self._flushing = trio.Lock()

    def freeze(self) -> tuple[UnsyncedWrite, ...]:
        """The machine stops: every further call is ENODEV. Returns what was not yet synced."""
        self.frozen = True
        return tuple(self.unsynced.writes)

    async def crash(self, choose: Choose) -> None:
        """Freeze, and bring to `next`, durably, what `choose` lets survive."""
        writes = self.freeze()
        for write, kept in zip(writes, choose(writes), strict=True):
            pieces = [(write.offset, write.data)] if kept == ALL else write.pieces(kept)
            for offset, data in pieces:
                await self.next.write(offset, [data])
        await self.next.flush()

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        if self.frozen or not self.next.readinto_nowait(offset, buffer):
            return False
        _lay_over(self.unsynced.writes, offset, buffer)
        return True

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        self._check()
        held = list(self.unsynced.writes)
        await self.next.readinto(offset, buffer)
        # a flush may have brought what was held to `next` just after it was read there
        _lay_over(held, offset, buffer)
        _lay_over(self.unsynced.writes, offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._check()
        data = b"".join(buffers)
        if not 0 <= offset <= self.size - len(data):
            raise OSError(errno.ENOSPC, f"{self.name}: write of {len(data)} bytes at {offset} crosses the end")
        if data:
            first = offset // SECTOR * SECTOR
            around = memoryview(bytearray(min(-(-(offset + len(data)) // SECTOR) * SECTOR, self.size) - first))
            if len(around) != len(data):
                await self.readinto(first, around)
            around[offset - first : offset - first + len(data)] = data
            self.unsynced.returned(self.unsynced.issue(first, bytes(around)))

    async def flush(self) -> None:
        """Until `next` has flushed, reads are still overlaid, and a crash may find any part of it there."""
        async with self._flushing:
            self._check()
            covered = self.unsynced.covered()
            await self.next.write_extents([(write.offset, [write.data]) for write in covered])
            await self.next.flush()
            self.unsynced.settled(covered)

    async def discard(self, offset: int, length: int) -> None:
        """Discards nothing: a volatile cache may do that at any time, or never."""
        self._check()

    def lose_unsynced(self) -> None:
        """What a failed flush should have covered is gone; reads see what was there before."""
        self.unsynced.forget()

    def _check(self) -> None:
        if self.frozen:
            raise OSError(errno.ENODEV, f"{self.name}: the machine has stopped")


def _lay_over(writes: Sequence[UnsyncedWrite], offset: int, buffer: memoryview) -> None:
    end = offset + len(buffer)
    for write in writes:
        begin, stop = max(offset, write.offset), min(end, write.offset + len(write.data))
        if begin < stop:
            buffer[begin - offset : stop - offset] = write.data[begin - write.offset : stop - write.offset]
