# SPDX-License-Identifier: GPL-2.0-or-later
"""Draining an image without mounting it: its dirty lines go to the backings that are given for its disks.

It is a mount that nobody sees: the same recovery, the same migration, the same clean stop. So a crash at any point leaves
what a crash of a mount leaves, and draining again goes on where it ended. The disk table stays as it is, and so do
the stamps of the backings: whose disk it is does not change by this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import attrs
import trio

from lcfs.engine.block_store import BlockStore, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_format import DiskEntry
from lcfs.engine.errors import Cancelled, Invalid, LcfsError, NoSuchThing, WrongDisk
from lcfs.engine.recover import catch_up, resume_cache
from lcfs.engine.startup import is_stale
from lcfs.engine.superblock import read_superblocks


@attrs.define(eq=False)
class Orphan:
    """An image that is being drained: what of whose lines is left."""

    storage: Storage
    path: str
    """Of the image."""
    backings: Mapping[int, str]
    """Disk id to the path of its backing."""
    say: Callable[[str], None]
    devices: dict[int, Device] = attrs.field(factory=dict)
    """Every disk attached to the cache, those without a backing too."""
    found: dict[int, int] = attrs.field(factory=dict)
    """Dirty lines of each that recovery found."""
    errors: dict[int, LcfsError] = attrs.field(factory=dict)
    """Why lines of a disk are left."""

    async def drain(self, scope: trio.CancelScope) -> None:
        """Write back all lines of the disks in `backings`; cancelling `scope` ends that and leaves the rest in the image.

        Raises LcfsError when nothing was begun (the image or a backing is in use, is not what it should be, cannot be read)
        or the image fails; Cancelled. What became of single disks is in `errors`.
        """
        async with AsyncExitStack() as stack:
            image = await self._open(self.path, stack)
            copies = await read_superblocks(image)
            superblock = copies.best(self.path)
            if copies.damaged:
                superblock = await catch_up(image, superblock)
            entries = {entry.id: entry for entry in superblock.disks if entry.cache_uuid == superblock.uuid}
            self._check_words(entries)
            for entry in entries.values():
                await self._take(entry, stack)
            cache = await resume_cache(superblock.cache_id, image, superblock, self.devices.values(), say=self.say)
            self.found = {number: device.nr_dirty_caches for number, device in self.devices.items()}
            if any(self.found[number] for number in self.backings):
                await self._run(cache, scope)

    async def _open(self, path: str, stack: AsyncExitStack) -> BlockStore:
        store = await self.storage.open(path)
        stack.push_async_callback(store.close)
        return store

    def _check_words(self, entries: Mapping[int, DiskEntry]) -> None:
        paths = [self.path]
        for number, path in self.backings.items():
            if number not in entries:
                known = ", ".join(f"{entry.id} ({entry.path})" for entry in entries.values()) or "none"
                raise NoSuchThing(f"{self.path} has no disk {number} attached; it has {known}")
            if any(self.storage.same(path, other) for other in paths):
                raise Invalid(f"{path} is given twice; give each disk a file of its own, which is not the image")
            paths.append(path)

    async def _take(self, entry: DiskEntry, stack: AsyncExitStack) -> None:
        """Open the backing of a disk and see whether it is that disk (R7)."""
        device = self.devices[entry.id] = Device(entry, None)
        device.make_table()
        path = self.backings.get(entry.id)
        if path is None:
            device.set_missing("no backing was given")
            return
        device.path = path
        store = await self._open(path, stack)
        if await is_stale(device, store):
            raise WrongDisk(
                f"{path} was in use under another cache since disk {entry.id} was last used with this one; "
                "its newer content would be overwritten with older"
            )
        if await store.read_label() is None:
            self.say(f"{path} carries no UUID: only its size says that it is disk {entry.id}")
        device.store = store

    async def _run(self, cache: Cache, scope: trio.CancelScope) -> None:
        for device in self.devices.values():
            device.adopt(cache)
        await cache.begin()
        failure: LcfsError | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            with scope:
                for number in self.backings:
                    try:
                        await cache.drain(self.devices[number])
                    except LcfsError as exc:
                        self.errors[number] = exc
                await cache.migrator.advance_tail(cache.ring.last_closed)
            try:
                with trio.CancelScope(shield=True):
                    await cache.stop()
            except LcfsError as exc:
                failure = exc
        if failure is not None:
            raise failure
        if scope.cancelled_caught:
            raise Cancelled(f"called off; {cache.nr_dirty_caches} dirty lines are still in {self.path}")
