# SPDX-License-Identifier: GPL-2.0-or-later
"""The caches and disks of a mount: finding them, remembering them, starting and stopping them."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from lcfs.engine.block_store import Place, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_format import DiskEntry
from lcfs.engine.errors import Failed, InUse, Invalid, LcfsError, NoSuchThing, NotPermitted, Unsuitable
from lcfs.engine.spec import check_id
from lcfs.engine.startup import Startup, new_stamp, restamp

log = logging.getLogger("lcfs.engine.mounted")

STOP_SECONDS = 30
"""How long a clean stop waits for a store that makes no progress."""


class Mounted:
    """The caches and disks of one mount, without what changes them: that is `Manager`."""

    def __init__(self, storage: Storage, nursery: trio.Nursery, *, readonly: bool = False) -> None:
        self.storage = storage
        self.readonly = readonly
        self.caches: dict[int, Cache] = {}
        self.devices: dict[int, Device] = {}
        self.cursor = 0
        """The cache that messages without an id speak of (dm-lc cache_id_ptr); 0: none."""
        self.last_refusal = ""
        """Why the last refused write to the tree was refused."""
        self.on_change: list[Callable[[], None]] = []
        """Called when a cache or disk came, went, or changed between present and missing."""
        self.on_resize: list[Callable[[Device], None]] = []
        """Called when a disk has another size than before."""
        self.own_device: int | None = None
        """st_dev of the mount, once there is one."""
        self._nursery = nursery
        self._order: list[int] = []
        self._busy: dict[int, trio.CancelScope] = {}
        self._being_made: set[tuple[str, int]] = set()
        """Kinds and ids that an operation under way will take, or is about to give up."""
        self._in_use: list[Cache] = []
        """Caches that operations under way depend on."""
        self._leaving: set[int] = set()
        """Disks that are being removed: the first cache's image forgets them first."""

    def refuse(self, reason: str) -> None:
        """Log why a write to the tree was refused, and keep it for whoever reads `control`."""
        self.last_refusal = reason
        log.info("refused: %s", reason)

    # Finding things

    def cache(self, number: int) -> Cache:
        """The cache with this id; raises NoSuchThing, Invalid."""
        check_id("cache", number)
        if number not in self.caches:
            known = ", ".join(map(str, self.caches)) or "none"
            raise NoSuchThing(f"there is no cache {number}; there is {known}")
        return self.caches[number]

    def device(self, number: int) -> Device:
        """The disk with this id; raises NoSuchThing, Invalid."""
        check_id("disk", number)
        if number not in self.devices:
            known = ", ".join(map(str, self.devices)) or "none"
            raise NoSuchThing(f"there is no disk {number}; there is {known}")
        return self.devices[number]

    def current_cache(self) -> Cache:
        """The cache the cursor is on; raises Invalid without one (dm-lc)."""
        if self.cursor not in self.caches:
            raise Invalid(f"the cursor is on {self.cursor}, which is no cache here; use switch_to ID first")
        return self.caches[self.cursor]

    def status_text(self) -> str:
        """dm-lc lc_mgr_status for the cursor."""
        head = f"\ncurrent cache_id_ptr: {self.cursor}\n"
        if self.cursor == 0:
            return head + (
                "sizeof struct\nmetablock: 11\nmetablock_device: 12\nsegment_header: 0\nsegment_header_device: 3188 (<= 4096)\n"
            )
        return head + self.caches[self.cursor].status_text() if self.cursor in self.caches else ""

    def _require_writable(self) -> None:
        if self.readonly:
            raise NotPermitted("this lcfs is mounted read-only; mount it without -o ro", errno=errno.EROFS)

    async def _look(self, path: str) -> Place:
        """What is at a path somebody names. Raises Unsuitable inside the mount itself, which could only wait for itself."""
        place = await self.storage.look(path)
        holder = place if place.exists else await self.storage.look(os.path.dirname(place.path))
        if self.own_device is not None and isinstance(holder.identity, tuple) and holder.identity[0] == self.own_device:
            raise Unsuitable(f"{path} is inside this mount; give a file elsewhere")
        return place

    # Tables

    def table_for(self, cache: Cache) -> tuple[DiskEntry, ...]:
        """What the image of `cache` is to remember: its own disks; the first cache's image, all disks."""
        first = bool(self._order) and self._order[0] == cache.id
        return tuple(
            device.entry()
            for device in self.devices.values()
            if device.cache_uuid == cache.uuid or (first and device.id not in self._leaving)
        )

    @contextmanager
    def _reserve(self, *keys: tuple[str, int]) -> Iterator[None]:
        """Nobody else makes or frees these while this is open; raises InUse when somebody does."""
        for kind, number in keys:
            if (kind, number) in self._being_made:
                raise InUse(f"{kind} {number} is being made or freed just now; try again")
        self._being_made.update(keys)
        try:
            yield
        finally:
            self._being_made.difference_update(keys)

    @contextmanager
    def _using(self, cache: Cache | None) -> Iterator[None]:
        """`cache` is not freed while this is open; raises InUse when it is being freed."""
        if cache is None:
            yield
            return
        if ("cache", cache.id) in self._being_made:
            raise InUse(f"cache {cache.id} is being made or freed just now; try again")
        self._in_use.append(cache)
        try:
            yield
        finally:
            self._in_use.remove(cache)

    def _home(self) -> Cache | None:
        """The first cache, whose image remembers all disks."""
        return self.caches[self._order[0]] if self._order else None

    async def _decide(self, cache: Cache | None, undo: Callable[[], None]) -> None:
        """The commit that makes a change so: in the image of the cache concerned, or in the first one's for a disk without.

        It is not called off once begun. When it fails, `undo` takes the change back in memory, and on the image where
        another commit has taken it along meanwhile; where that fails too the cache fails: nothing becomes durable on
        the strength of a table that is wrong.
        """
        decisive = cache or self._home()
        if decisive is None:
            return
        with trio.CancelScope(shield=True):
            try:
                await decisive.commit(both=True)
            except LcfsError:
                undo()
                if not decisive.failed and not self.readonly and decisive.superblock.current.disks != decisive.disk_table():
                    try:
                        await decisive.commit(both=True)
                    except LcfsError as exc:
                        decisive.fail(f"its disk table could not be put right: {exc}")
                raise

    async def _remember(self, cache: Cache | None) -> None:
        """What `_decide` decided about `cache`, in the first cache's image too."""
        home = self._home()
        if home is not None and cache is not None and home is not cache:
            await home.commit(both=True)

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    # Coming up and going down

    async def start(self, startup: Startup) -> None:
        """Take over what `startup` brought up, make it durable, start the daemons."""
        self._order = list(startup.caches)
        self.devices = startup.devices
        self.caches = dict(sorted(startup.caches.items()))
        for cache in self.caches.values():
            cache.disk_table = lambda cache=cache: self.table_for(cache)  # type: ignore[misc]
            cache.readonly = self.readonly
        if self.readonly:
            return
        for device in self.devices.values():
            if device.store is not None:
                new_stamp(device)
        # the other images first: what is attached to them is theirs to say
        for number in reversed(self._order):
            await self.caches[number].begin()
        for device in self.devices.values():
            await restamp(device)
        for number in self._order:
            await self._nursery.start(self.caches[number].run, name=f"cache {number}")

    async def stop(self) -> None:
        """RAM buffers to the images, superblocks that say clean. Raises the first error after trying all."""
        errors: list[LcfsError] = []
        if not self.readonly:
            # side by side: an image that hangs keeps no other from being left clean
            async with trio.open_nursery() as nursery:
                for cache in self.caches.values():
                    nursery.start_soon(self._stop_cache, cache, errors)
                for device in self.devices.values():
                    if device.cache is None and device.store is not None:
                        nursery.start_soon(self._stop_device, device, errors)
        if errors:
            raise errors[0]

    async def _stop_cache(self, cache: Cache, errors: list[LcfsError]) -> None:
        """Stop a cache for as long as it makes progress."""

        async def watch(scope: trio.CancelScope) -> None:
            seen: object = None
            while True:
                now = (cache.flusher.written, cache.durable, cache.superblock.current.sequence)
                if now == seen:
                    scope.cancel()
                seen = now
                await trio.sleep(STOP_SECONDS)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, nursery.cancel_scope)
                try:
                    await cache.stop()
                except LcfsError as exc:
                    errors.append(exc)
                    log.error("cache %d was not left clean: %s", cache.id, exc)
                    return
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            if not cache.superblock.current.clean and not errors:
                errors.append(Failed(f"cache {cache.id} was not left clean: {cache.path} does not answer"))

    async def _stop_device(self, device: Device, errors: list[LcfsError]) -> None:
        with trio.move_on_after(STOP_SECONDS) as scope:
            try:
                await device.flush_backing()
            except (OSError, LcfsError) as exc:
                errors.append(Failed(f"disk {device.id} could not be flushed: {exc}"))
        if scope.cancelled_caught:
            errors.append(Failed(f"disk {device.id} could not be flushed: {device.path} does not answer"))

    async def close(self) -> None:
        """Let go of every image and backing."""
        for device in self.devices.values():
            if device.store is not None:
                await device.store.close()
        for cache in self.caches.values():
            await cache.image.close()
