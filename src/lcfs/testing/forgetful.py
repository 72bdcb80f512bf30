# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that loses at the death of its process what was not flushed: power loss on real files, by SIGKILL."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

import trio

from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.engine.geometry import SECTOR
from lcfs.testing.layer import Layer
from lcfs.testing.unsynced import ALL, Choose, UnsyncedWrite, lose_all


class ForgetfulStore(Layer):
    """The volatile write cache of a disk: sectors stay in memory until a flush brings them to `next`.

    SIGKILL leaves no time to decide what survives, so that is decided while it runs: of the writes of each call, the
    sectors that `choose` picks go to `next` at once, though nobody was promised it. A flush brings what `choose` picks
    first and the rest afterwards, so that death in the middle leaves any part of it. With `lose_all` nothing reaches
    `next` but by a flush.

    A failed flush loses what it covered. Labels are durable at once.
    """

    def __init__(self, next: BlockStore, choose: Choose = lose_all) -> None:
        super().__init__(next)
        self.choose = choose
        self._volatile: dict[int, bytes] = {}
        """Sector number -> content that no flush has begun to cover."""
        self._flushing: dict[int, bytes] = {}
        """The same for what the flush under way covers."""
        self._bringing = trio.Lock()
        """Held while `next` is written: of two versions of a sector the older is never brought last."""

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        if not self.next.readinto_nowait(offset, buffer):
            return False
        _lay_over(self._held(offset, len(buffer)), offset, buffer)
        return True

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        # a flush that ends meanwhile lets go of sectors that `next` did not have yet when it was read
        before = self._held(offset, len(buffer))
        await self.next.readinto(offset, buffer)
        _lay_over(before | self._held(offset, len(buffer)), offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        await self.write_extents([(offset, buffers)])

    async def write_extents(self, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        writes = [UnsyncedWrite(offset, data) for offset, buffers in extents if (data := b"".join(buffers))]
        for write in writes:
            end = write.offset + len(write.data)
            if write.offset < 0 or end > self.size:
                raise OSError(errno.ENOSPC, f"{self.name}: write of {len(write.data)} bytes at {write.offset} crosses the end")
            if write.offset % SECTOR or (end % SECTOR and end != self.size):
                await self._take_unaligned(write)
            else:
                self._take(write)
        await self._bring_early(writes)

    async def flush(self) -> None:
        with trio.CancelScope(shield=True):  # a thread left behind would bring something old over something newer
            async with self._bringing:
                self._flushing, self._volatile = self._volatile, {}
                try:
                    if self._flushing:
                        writes = _runs(self._flushing)
                        early = self._chosen(writes)
                        await self.next.write_extents(early)
                        await self.next.write_extents([(write.offset, [write.data]) for write in writes])
                    await self.next.flush()
                finally:
                    self._flushing = {}

    async def discard(self, offset: int, length: int) -> None:
        """Discards nothing: a volatile cache may do that at any time, or never."""

    def _take(self, write: UnsyncedWrite) -> None:
        first = write.offset // SECTOR
        for at in range(0, len(write.data), SECTOR):
            self._volatile[first + at // SECTOR] = write.data[at : at + SECTOR]

    async def _take_unaligned(self, write: UnsyncedWrite) -> None:
        """Grow it in place to whole sectors, by what they hold, and take it."""
        first = write.offset // SECTOR * SECTOR
        end = write.offset + len(write.data)
        around = memoryview(bytearray(min(-(-end // SECTOR) * SECTOR, self.size) - first))
        async with self._bringing:  # no flush takes away what is written to the rest of these sectors meanwhile
            await self.next.readinto(first, around)
            _lay_over(self._held(first, len(around)), first, around)
            around[write.offset - first : end - first] = write.data
            write.offset, write.data = first, bytes(around)
            self._take(write)

    async def _bring_early(self, writes: Sequence[UnsyncedWrite]) -> None:
        pieces = self._chosen(writes)
        if pieces and not self._bringing.locked():
            with trio.CancelScope(shield=True):
                async with self._bringing:
                    await self.next.write_extents(pieces)

    def _chosen(self, writes: Sequence[UnsyncedWrite]) -> list[tuple[int, Sequence[Buffer]]]:
        chosen: list[tuple[int, Sequence[Buffer]]] = []
        for write, kept in zip(writes, self.choose(writes), strict=True):
            pieces = [(write.offset, write.data)] if kept == ALL else write.pieces(kept)
            chosen += [(offset, [data]) for offset, data in pieces]
        return chosen

    def _held(self, offset: int, length: int) -> dict[int, bytes]:
        """What `next` does not have yet of the sectors that a range touches."""
        held: dict[int, bytes] = {}
        for layer in (self._flushing, self._volatile):
            if layer:
                sectors = range(offset // SECTOR, -(-(offset + length) // SECTOR))
                held |= {sector: layer[sector] for sector in sectors if sector in layer}
        return held


def _lay_over(sectors: Mapping[int, bytes], offset: int, buffer: memoryview) -> None:
    for sector, data in sectors.items():
        at = sector * SECTOR - offset
        begin, end = max(at, 0), min(at + len(data), len(buffer))
        if begin < end:
            buffer[begin:end] = data[begin - at : end - at]


def _runs(sectors: Mapping[int, bytes]) -> list[UnsyncedWrite]:
    """Neighbouring sectors as one write."""
    runs: list[tuple[int, list[bytes]]] = []
    last = -2
    for sector in sorted(sectors):
        if sector != last + 1:
            runs.append((sector, []))
        runs[-1][1].append(sectors[sector])
        last = sector
    return [UnsyncedWrite(first * SECTOR, b"".join(data)) for first, data in runs]
