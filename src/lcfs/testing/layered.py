# SPDX-License-Identifier: GPL-2.0-or-later
"""A storage that puts layers on everything that is opened in another one."""

from __future__ import annotations

from lcfs.engine.block_store import BlockStore, Fill, Storage
from lcfs.testing.storage import Wrap


class LayeredStorage(Storage):
    """What `next` opens and creates, under the layers of `wrap`: delay, faults or a volatile cache on real files."""

    def __init__(self, next: Storage, wrap: Wrap) -> None:
        self.next = next
        self.wrap = wrap

    async def open(self, path: str, *, readonly: bool = False) -> BlockStore:
        return self.wrap(path, await self.next.open(path, readonly=readonly))

    async def create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        return self.wrap(path, await self.next.create(path, size, fill))

    async def remove(self, path: str) -> None:
        await self.next.remove(path)

    def canonical(self, path: str) -> str:
        return self.next.canonical(path)

    def exists(self, path: str) -> bool:
        return self.next.exists(path)

    def same(self, path: str, other: str) -> bool:
        return self.next.same(path, other)
