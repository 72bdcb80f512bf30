# SPDX-License-Identifier: GPL-2.0-or-later
"""A slow store."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.testing.layer import Layer


class DelayStore(Layer):
    """Waits before each call: seconds of trio's clock, which a test may change at any time.

    Calls wait side by side, as on a device with a deep queue. A read that takes time is never served by
    `readinto_nowait`.
    """

    def __init__(self, next: BlockStore, *, reads: float = 0.0, writes: float = 0.0, flushes: float = 0.0) -> None:
        super().__init__(next)
        self.reads = reads
        self.writes = writes
        self.flushes = flushes

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        return not self.reads and self.next.readinto_nowait(offset, buffer)

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        await trio.sleep(self.reads)
        await self.next.readinto(offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        await trio.sleep(self.writes)
        await self.next.write(offset, buffers)

    async def flush(self) -> None:
        await trio.sleep(self.flushes)
        await self.next.flush()

    async def discard(self, offset: int, length: int) -> None:
        await trio.sleep(self.writes)
        await self.next.discard(offset, length)
