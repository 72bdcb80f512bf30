# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system in memory for images and backings: what a whole mount runs on in a test."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from lcfs.engine.block_store import BlockStore, Fill, Storage
from lcfs.engine.errors import AlreadyThere, InUse, NoSuchThing, Unsuitable
from lcfs.testing.fault import Operation
from lcfs.testing.image import SparseImage
from lcfs.testing.log import Call, Log, LogStore
from lcfs.testing.memory import Medium, MemoryStore
from lcfs.testing.unsynced import Choose

Wrap = Callable[[str, BlockStore], BlockStore]
"""Puts layers on the store that was just opened at a path."""


def _bare(path: str, store: BlockStore) -> BlockStore:
    return store


class MemoryStorage(Storage):
    """Named media, each open once at a time, as a lock would have it.

    `media` maps absolute paths to what is there; a test may add, take away and change what is not open.
    `wrap` puts layers (delay, fault) on each store that is opened; with a `log` the calls that reach the
    media, and the creations, are recorded. `nowait` and `yields` are those of `MemoryStore`. Creating and
    removing are durable at once: directories are no part of the fault model.
    """

    def __init__(
        self,
        media: Mapping[str, Medium] | None = None,
        *,
        wrap: Wrap = _bare,
        log: Log | None = None,
        nowait: bool = True,
        yields: bool = True,
    ) -> None:
        self.media: dict[str, Medium] = dict(media or {})
        self.wrap = wrap
        self.log = log
        self.nowait = nowait
        self.yields = yields
        self._opened: dict[str, MemoryStore] = {}

    def add(self, path: str, size: int, *, labels: bool = True) -> Medium:
        """A new medium of `size` bytes, all zero, not open."""
        medium = Medium(SparseImage(size), labels=labels)
        self.media[self.canonical(path)] = medium
        return medium

    def crash(self, choose: Choose | Mapping[str, Choose]) -> MemoryStorage:
        """The storage that a machine finds after its power failed now.

        `choose` decides what became of the unsynced writes, for all media or path by path. Whoever runs
        on this storage may go on to do so, in a world of his own: nothing he does reaches the new one. The
        new one has no log.
        """
        media = {
            path: medium.crash(choose[path] if isinstance(choose, Mapping) else choose) for path, medium in self.media.items()
        }
        return MemoryStorage(media, wrap=self.wrap, nowait=self.nowait, yields=self.yields)

    def is_open(self, path: str) -> bool:
        """Whether somebody holds the lock on `path`."""
        store = self._opened.get(self.canonical(path))
        return store is not None and not store.closed

    async def open(self, path: str, *, readonly: bool = False) -> BlockStore:
        path = self.canonical(path)
        medium = self.media.get(path)
        if medium is None:
            raise NoSuchThing(f"{path} does not exist; create it or correct the path")
        if self.is_open(path):
            raise InUse(f"{path} is in use by another lcfs (it holds the lock); unmount that one first")
        if medium.size == 0:
            raise Unsuitable(f"{path} is empty; remove it and lcfs creates it, or give a file that has a size")
        return self._open(path, medium, readonly)

    async def create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        path = self.canonical(path)
        if path in self.media:
            raise AlreadyThere(f"{path} already exists; give another path")
        if self.log is not None:
            with self.log.recorded(Call(path, Operation.CREATE, 0, size)):
                self.add(path, size)
        else:
            self.add(path, size)
        store = self._open(path, self.media[path], readonly=False)
        if fill is not None:
            await fill(store)
        return store

    async def remove(self, path: str) -> None:
        del self.media[self.canonical(path)]

    def canonical(self, path: str) -> str:
        return posixpath.normpath(posixpath.join("/", path))

    def exists(self, path: str) -> bool:
        return self.canonical(path) in self.media

    def same(self, path: str, other: str) -> bool:
        return self.canonical(path) == self.canonical(other)

    def _open(self, path: str, medium: Medium, readonly: bool) -> BlockStore:
        store = MemoryStore(medium, path, readonly=readonly, nowait=self.nowait, yields=self.yields)
        self._opened[path] = store
        return self.wrap(path, store if self.log is None else LogStore(store, self.log))
