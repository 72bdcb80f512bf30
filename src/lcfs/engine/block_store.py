# SPDX-License-Identifier: GPL-2.0-or-later
"""The narrow seam to storage: a thing with sectors.

Everything below and above the cache is a `BlockStore`: a file, a block device, memory, a layer that
delays or fails. They stack. All of the engine's I/O goes through this interface, so that a test owns it.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Hashable, Sequence
from uuid import UUID

import attrs

Buffer = bytes | bytearray | memoryview
Fill = Callable[["BlockStore"], Awaitable[None]]


@attrs.frozen
class Label:
    """Who a backing is: its UUID, and the stamp of the mount that may write to it (u64)."""

    uuid: UUID
    stamp: int


class FlushFailed(OSError):
    """A flush failed behind a write that did not: writing again mends nothing."""


class BlockStore(abc.ABC):
    """A thing with `size` bytes. Offsets and lengths are in bytes; any alignment is served.

    Errors are `OSError` with an errno. A call that raised may have done part of its work.
    """

    name: str
    size: int

    @property
    def identity(self) -> Hashable:
        """Equal for two stores that are the same file or device under different names."""
        return self.name

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` if that needs no waiting; True when it was filled.

        Raises nothing: an error is left to `readinto`, which reports it.
        """
        return False

    @abc.abstractmethod
    async def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`; a read that ends early is `OSError(EIO)`."""

    async def readinto_extents(self, extents: Sequence[tuple[int, memoryview]]) -> None:
        """Several `readinto`s; all done when it returns. One that fails fails it, and what the others read means nothing."""
        for offset, buffer in extents:
            await self.readinto(offset, buffer)

    async def readinto_uncached(self, offset: int, buffer: memoryview) -> None:
        """`readinto`, from the medium even where the system remembers what it should hold, as far as that can be had.

        Offset, length and memory are aligned to blocks of 4 KiB.
        """
        await self.readinto(offset, buffer)

    @abc.abstractmethod
    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all `buffers`, one behind the other, from `offset`. Not durable until `flush`.

        The buffers must not change until this returns.
        """

    async def write_extents(self, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        """Several `write`s, in this order unless the store knows better; all done when it returns."""
        for offset, buffers in extents:
            await self.write(offset, buffers)

    @abc.abstractmethod
    async def flush(self) -> None:
        """Make every write that returned before this call durable.

        One that failed is never to be trusted on a retry: what it covered may be gone.
        """

    async def write_durably(self, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        """`write_extents` and then `flush`, with less in between where the store can. Raises FlushFailed when it is the flush
        that failed.
        """
        await self.write_extents(extents)
        try:
            await self.flush()
        except OSError as exc:
            raise FlushFailed(exc.errno, exc.strerror or str(exc)) from exc

    async def discard(self, offset: int, length: int) -> None:
        """The content of this range is not needed any more and is undefined from now on."""

    async def grow(self, size: int | None) -> None:
        """Take over the size it has by now, after making it `size` bytes where it has fewer and can be made longer.

        Durable on return, and `size` says how long it is then: more or fewer than asked for. It is never made shorter.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of it, its locks included. Flushes nothing."""

    async def read_label(self) -> Label | None:
        """The label it carries; None where it has none or cannot carry one (a block device)."""
        return None

    async def write_label(self, label: Label) -> None:
        """Store `label` durably, where that is possible; otherwise do nothing."""

    async def is_blank(self) -> bool:
        """Whether nothing was ever written to it; False where that cannot be told at once."""
        return False

    def device_number(self) -> str:
        """`major:minor` of the block device that this is, or that holds it."""
        return "0:0"

    def busy_ms(self) -> int | None:
        """Milliseconds that device has been busy since boot; None where nobody counts."""
        return None


@attrs.frozen
class Place:
    """What is at a path."""

    path: str
    """Absolute, without symlinks."""
    exists: bool
    identity: Hashable
    """That of a store opened there."""


class Storage(abc.ABC):
    """Where images and backings come from: the file system, or a test's memory."""

    @abc.abstractmethod
    async def open(self, path: str, *, readonly: bool = False) -> BlockStore:
        """Open and lock what exists.

        Raises NoSuchThing, Unsuitable (directory, empty, special, read-only), InUse (locked).
        """

    @abc.abstractmethod
    async def create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        """A new sparse file of `size` bytes, locked. Follows no symlink.

        `fill` writes what it is to hold before it has its name, where the file system can do that: a crash
        leaves no half of it.

        Raises AlreadyThere, NoSpace, NoSuchThing (its directory), NotPermitted.
        """

    @abc.abstractmethod
    async def remove(self, path: str) -> None:
        """Undo a `create`."""

    @abc.abstractmethod
    def canonical(self, path: str) -> str:
        """The absolute path without symlinks: two names of one file have one canonical path."""

    @abc.abstractmethod
    def exists(self, path: str) -> bool:
        """Whether anything is there, be it unusable."""

    async def look(self, path: str) -> Place:
        """What is at `path`. Unlike its synchronous relatives this may be asked while requests are served."""
        canonical = self.canonical(path)
        return Place(canonical, self.exists(canonical), canonical)

    @abc.abstractmethod
    def same(self, path: str, other: str) -> bool:
        """Whether two paths name the same file or device (hard links included)."""
