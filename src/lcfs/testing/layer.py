# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that hands everything to the next one: the base of the layers."""

from __future__ import annotations

from collections.abc import Sequence

from lcfs.engine.block_store import BlockStore, Buffer, Label


class Layer(BlockStore):
    """Everything goes to `next` unchanged; a layer overrides what it is about."""

    def __init__(self, next: BlockStore) -> None:
        self.next = next
        self.name = next.name
        self.size = next.size

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        return self.next.readinto_nowait(offset, buffer)

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        await self.next.readinto(offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        await self.next.write(offset, buffers)

    async def flush(self) -> None:
        await self.next.flush()

    async def discard(self, offset: int, length: int) -> None:
        await self.next.discard(offset, length)

    async def grow(self, size: int | None) -> None:
        await self.next.grow(size)
        self.size = self.next.size

    async def close(self) -> None:
        await self.next.close()

    async def read_label(self) -> Label | None:
        return await self.next.read_label()

    async def write_label(self, label: Label) -> None:
        await self.next.write_label(label)

    def device_number(self) -> str:
        return self.next.device_number()

    def busy_ms(self) -> int | None:
        return self.next.busy_ms()

    def lose_unsynced(self) -> None:
        """What a failed flush should have covered never becomes durable; the medium below must know how."""
        self.next.lose_unsynced()  # type: ignore[attr-defined]
