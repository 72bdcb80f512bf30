# SPDX-License-Identifier: GPL-2.0-or-later
"""A store in memory that knows what a loss of power would leave of it."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import trio

from lcfs.engine.block_store import BlockStore, Buffer, Label
from lcfs.testing.image import SparseImage
from lcfs.testing.unsynced import Choose, UnsyncedWrites, apply_survivors, whole_sectors

UNDEFINED = 0xDB
"""What a discarded range reads as: anything but the zeros one might come to rely on."""


class Medium:
    """What a `MemoryStore` writes to, and what is still there after it is closed.

    `live` is what reads see, `durable` what flushes have made safe, `unsynced` the difference, write by
    write. A write never changes `durable` before a flush that began after it returned has returned too.
    """

    def __init__(self, durable: SparseImage, label: Label | None = None, *, labels: bool = True) -> None:
        self.durable = durable
        self.live = durable.copy()
        self.unsynced = UnsyncedWrites()
        self.label = label
        self.labels = labels
        """Whether it can carry a label; a block device cannot."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.live.size

    def resize(self, size: int) -> None:
        """Cut it off or let it grow behind its owner's back; it must be closed."""
        self.live.resize(size)
        self.durable.resize(size)

    def crash(self, choose: Choose) -> Medium:
        """What power loss leaves when `choose` decides about the unsynced writes; this one lives on."""
        durable = self.durable.copy()
        writes = self.unsynced.writes
        apply_survivors(durable, writes, choose(writes))
        return Medium(durable, self.label, labels=self.labels)


class MemoryStore(BlockStore):
    """A `BlockStore` on a `Medium`.

    `nowait`: reads are served by `readinto_nowait`; with False every read is awaited, as from a disk.
    `yields`: an awaited call lets other tasks run, and can be cancelled, before it takes effect. With
    False it completes in place: fewer interleavings, several times faster.

    A write or flush past the end is ENOSPC, a read EIO, any use after `close` EBADF. A buffer that changes
    while it is being written fails an assertion: on a real device such a write has no defined content. A
    cancelled write is not applied, yet may survive a crash until the store is closed, like a system call
    whose thread was abandoned.
    """

    def __init__(
        self,
        medium: Medium,
        name: str = "memory",
        *,
        readonly: bool = False,
        nowait: bool = True,
        yields: bool = True,
    ) -> None:
        self.medium = medium
        self.name = name
        self.size = medium.size
        self.readonly = readonly
        self.nowait = nowait
        self.yields = yields
        self.closed = False

    @classmethod
    def of_size(cls, size: int, name: str = "memory", *, nowait: bool = True, yields: bool = True) -> MemoryStore:
        """A store of its own, all zero."""
        return cls(Medium(SparseImage(size)), name, nowait=nowait, yields=yields)

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        if not self.nowait or self.closed or not 0 <= offset <= self.medium.size - len(buffer):
            return False
        self.medium.live.readinto(offset, buffer)
        return True

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        if self.yields:
            await trio.lowlevel.checkpoint()
        self._check_open()
        if not 0 <= offset <= self.medium.size - len(buffer):
            raise OSError(errno.EIO, f"{self.name}: read of {len(buffer)} bytes at {offset} ends early")
        self.medium.live.readinto(offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        self._check_write(offset, len(data))
        if not data:
            return
        medium = self.medium
        write = medium.unsynced.issue(*whole_sectors(offset, data, medium.live))
        if self.yields:
            await trio.lowlevel.checkpoint()
            assert data == b"".join(buffers), f"{self.name}: a buffer changed while it was written at {offset}"
        medium.live.write(offset, data)
        medium.unsynced.returned(write)

    async def flush(self) -> None:
        self._check_open()
        covered = self.medium.unsynced.covered()
        if self.yields:
            await trio.lowlevel.checkpoint()
        for write in covered:
            self.medium.durable.write(write.offset, write.data)
        self.medium.unsynced.settled(covered)

    async def discard(self, offset: int, length: int) -> None:
        await self.write(offset, [bytes([UNDEFINED]) * length])

    async def grow(self, size: int | None) -> None:
        """By zeros; until this has returned a loss of power may leave the old size."""
        self._check_write(0, 0)
        medium = self.medium
        if size is not None and size > medium.size:
            medium.live.resize(size)
        if self.yields:
            await trio.lowlevel.checkpoint()
        medium.durable.resize(medium.live.size)
        self.size = medium.size

    async def close(self) -> None:
        self.medium.unsynced.withdraw_unreturned()
        self.closed = True

    async def read_label(self) -> Label | None:
        self._check_open()
        return self.medium.label

    async def write_label(self, label: Label) -> None:
        self._check_write(0, 0)
        if self.medium.labels:
            self.medium.label = label

    def lose_unsynced(self) -> None:
        """What a failed flush does on Linux: the unsynced writes still read back, and never become durable."""
        self.medium.unsynced.forget()

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, f"{self.name}: used after it was closed")

    def _check_write(self, offset: int, length: int) -> None:
        self._check_open()
        if self.readonly:
            raise OSError(errno.EBADF, f"{self.name}: opened for reading only")
        if not 0 <= offset <= self.medium.size - length:
            raise OSError(errno.ENOSPC, f"{self.name}: write of {length} bytes at {offset} crosses the end")
