# SPDX-License-Identifier: GPL-2.0-or-later
"""The caches and disks of one mount, and what can be done with them while it runs (dm-lc's lc-mgr and lc-admin).

Every operation leaves the old state or the new one (R9): it prepares in memory, one superblock commit
makes it so, and a failure or a cancellation before that takes the preparation back.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from lcfs.engine.block_store import Place, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_changes import DiskChanges
from lcfs.engine.disk_format import DiskEntry, require_table_room
from lcfs.engine.errors import (
    AlreadyThere,
    InUse,
    Invalid,
    LcfsError,
    Missing,
    NoSuchThing,
)
from lcfs.engine.formatting import format_image, require_formattable
from lcfs.engine.messages import parse_message
from lcfs.engine.recover import catch_up, resume_cache
from lcfs.engine.spec import MountSpec, check_id
from lcfs.engine.startup import Startup, is_stale, new_entry, new_stamp, restamp
from lcfs.engine.superblock import read_superblocks

log = logging.getLogger("lcfs.engine.manager")

ONLINE_ROUNDS = 8
"""Times detach writes back what is dirty while the disk stays in use, before it holds requests for the rest."""
FEW_LINES = 256
"""So few dirty lines are written back with requests held."""


class Manager(DiskChanges):
    """What can be done with the caches and disks of one mount. Made by `open_manager`."""

    async def message(self, line: str) -> str:
        """Carry out one control line; the answer. Raises LcfsError."""
        return await parse_message(line)(self)

    # Caches

    async def format_cache_device(self, path: str) -> None:
        """Make an existing file or device an empty cache (dm-lc format_cache_device). Raises InUse, AlreadyThere, ..."""
        self._require_writable()
        store = await self.storage.open((await self._look(path)).path)
        try:
            await require_formattable(store)
            await format_image(store)
        finally:
            await store.close()

    async def resume_cache(self, path: str) -> None:
        """Bring up the cache in `path` under the cursor's id, with the disks it remembers (dm-lc resume_cache)."""
        self._require_writable()
        number = self.cursor
        if number == 0:
            raise Invalid("the cursor is on 0; use switch_to ID with the id the cache is to have")
        async with AsyncExitStack() as undo:
            image = await self.storage.open((await self._look(path)).path)
            undo.push_async_callback(image.close)
            copies = await read_superblocks(image)
            superblock = copies.best(image.name)
            if copies.damaged:
                superblock = await catch_up(image, superblock)
            if any(other.uuid == superblock.uuid for other in self.caches.values()):
                raise AlreadyThere(f"{path} is a copy of a cache that is mounted here; mount one of them only")
            entries = [entry for entry in superblock.disks if entry.cache_uuid == superblock.uuid]
            for entry in entries:
                self._require_free(entry, image.name)
            with self._reserve(("cache", number), *(("disk", entry.id) for entry in entries)):
                if number in self.caches:
                    raise AlreadyThere(f"cache {number} is {self.caches[number].path}; use switch_to with a free id")
                own = [await self._open_for(entry, undo) for entry in entries]
                cache = await resume_cache(number, image, superblock, own)
                await self._take_in(cache, own)
            undo.pop_all()
        self._changed()
        await self._remember(cache)

    async def _take_in(self, cache: Cache, own: list[Device]) -> None:
        for device in own:
            device.adopt(cache)
            if device.store is None:
                continue
            if device.missing and device.nr_dirty_caches:
                await device.store.close()
                device.store = None
            else:
                device.set_missing("")
                new_stamp(device)
        before = dict(self.devices)
        self.devices = dict(sorted({**self.devices, **{device.id: device for device in own}}.items()))
        self.caches = dict(sorted({**self.caches, cache.id: cache}.items()))
        self._order.append(cache.id)
        cache.disk_table = lambda: self.table_for(cache)
        try:
            await cache.begin()
            for device in own:
                await restamp(device)
            await self._nursery.start(cache.run, name=f"cache {cache.id}")
        except BaseException:
            self.devices = before
            del self.caches[cache.id]
            self._order.remove(cache.id)
            raise

    def _require_free(self, entry: DiskEntry, path: str) -> None:
        """Raises when a disk of an image that is to be resumed clashes with what is here."""
        known = self.devices.get(entry.id)
        if known is None:
            return
        if known.uuid != entry.uuid:
            raise AlreadyThere(f"disk id {entry.id} is {known.path} here and {entry.path} in {path}; remove one first")
        if not known.missing:
            raise InUse(f"disk {entry.id} is in use here without the cache in {path}; remove it first")

    async def _open_for(self, entry: DiskEntry, undo: AsyncExitStack) -> Device:
        device = Device(entry, None)
        device.make_table()
        try:
            store = await self.storage.open(entry.path)
        except LcfsError as exc:
            device.set_missing(str(exc))
            return device
        undo.push_async_callback(store.close)
        try:
            if await is_stale(device, store):
                device.set_missing(f"{entry.path} was in use under another cache since")
        except LcfsError as exc:
            await store.close()
            device.set_missing(str(exc))
            return device
        device.store = store
        return device

    async def free_cache(self, number: int) -> None:
        """Stop a cache that no disk is attached to and let go of its image (dm-lc free_cache, B21)."""
        self._require_writable()
        cache = self.cache(number)
        users = [device.id for device in self.devices.values() if device.cache is cache]
        if users:
            raise InUse(f"cache {number} is in use by disk {', '.join(map(str, users))}; detach first")
        if cache in self._in_use:
            raise InUse(f"an operation on cache {number} is under way; wait for it")
        with self._reserve(("cache", number)):
            try:
                await cache.stop()
            finally:
                # its daemons have ended: it is of no use any more, whether its image is clean or not
                await cache.image.close()
                del self.caches[number]
                self._order.remove(number)
                if self.cursor == number:
                    self.cursor = 0
                self._changed()
        home = self._home()
        if home is not None:
            await home.commit(both=True)

    # Disks

    async def create(self, number: int, path: str, size: int | None, cache_id: int, name: str | None) -> None:
        """A new disk: on an existing file or device, or on a new sparse file. Attached when `cache_id` is not 0."""
        self._require_writable()
        check_id("disk", number)
        if cache_id:
            self.cache(cache_id)
        place = await self._look(path)
        async with AsyncExitStack() as undo:
            with self._reserve(("disk", number)):
                self._require_new(number, place)
                device = await self._new_device(number, place, size, name, undo)
                cache = self.cache(cache_id) if cache_id else None
                with self._using(cache):
                    if cache is not None:
                        cache.check()
                    require_table_room([*(known.entry() for known in self.devices.values()), device.entry()])
                    # from here on the image may say that the disk is there: its backing stays, whatever comes
                    undo.pop_all()
                    await self._add(device, cache)
        await restamp(device)
        self._changed()
        await self._remember(cache)

    async def _add(self, device: Device, cache: Cache | None) -> None:
        new_stamp(device)
        if cache is not None:
            device.attached_at = cache.durable
            device.set_cache(cache)
            cache.attach(device)
        self.devices = dict(sorted({**self.devices, device.id: device}.items()))

        def forget() -> None:
            del self.devices[device.id]
            if cache is not None:
                cache.release(device)

        try:
            await self._decide(cache, forget)
        except LcfsError:
            if device.store is not None:
                await device.store.close()
            raise

    def _require_new(self, number: int, place: Place) -> None:
        """Raises AlreadyThere when the id is taken, or what is at `place` is used here."""
        if number in self.devices:
            raise AlreadyThere(f"disk {number} exists ({self.devices[number].path}); take another id")
        for other in self.devices.values():
            if other.path == place.path or (other.store is not None and other.store.identity == place.identity):
                raise AlreadyThere(f"{place.path} is disk {other.id}; take another backing")
        for cache in self.caches.values():
            if cache.image.identity == place.identity:
                raise AlreadyThere(f"{place.path} is the image of cache {cache.id}; take another backing")

    async def _new_device(self, number: int, place: Place, size: int | None, name: str | None, undo: AsyncExitStack) -> Device:
        path = place.path
        if not place.exists:
            entry = await new_entry(number, path, size, name, None)
            store = await self.storage.create(path, entry.size)
            undo.push_async_callback(self.storage.remove, path)
            undo.push_async_callback(store.close)
            return Device(entry, store)
        store = await self.storage.open(path)
        undo.push_async_callback(store.close)
        entry = await new_entry(number, path, size, name, store)
        for other in self.devices.values():
            if other.uuid == entry.uuid:
                raise AlreadyThere(f"{path} carries the UUID of disk {other.id}; it is that disk, or a copy of it")
        return Device(entry, store)

    async def attach(self, number: int, cache_id: int) -> None:
        """Give a disk without a cache one (dm-lc lc-attach). The disk stays in use; requests wait for a moment."""
        self._require_writable()
        device = self.device(number)
        self.cache(cache_id)
        with self._operation(device):
            if device.cache_uuid is not None:
                raise InUse(f"disk {number} is attached to cache {device.cache_id or device.cache_uuid}; detach it first")
            if device.missing:
                raise Missing(f"disk {number} is missing: {device.missing}")
            with device.held():
                await device.quiesce()
                # what went past the cache so far must not be lost while what comes later is kept
                await device.flush_backing()
                cache = self.cache(cache_id)

                def let_go() -> None:
                    cache.release(device)
                    device.set_cache(None)

                with self._using(cache):
                    cache.check()
                    device.attached_at = cache.durable
                    device.set_cache(cache)
                    cache.attach(device)
                    await self._decide(cache, let_go)
        self._changed()
        await self._remember(cache)

    async def detach(self, number: int) -> None:
        """Write back all lines of a disk, then send its requests past the cache (dm-lc lc-detach, B28, B29).

        The disk stays in use but for the last lines. Cancelled before the commit, it stays attached.
        """
        self._require_writable()
        device = self.device(number)
        with self._operation(device):
            await self._detach(device)
        self._changed()

    async def _detach(self, device: Device) -> None:
        cache = device.cache
        if cache is None:
            if device.cache_uuid is not None:
                raise Missing(f"the cache of disk {device.id}, {device.cache_uuid}, is not mounted; mount it first")
            raise Invalid(f"disk {device.id} is not attached to a cache")

        def attach_again() -> None:
            device.set_cache(cache)
            cache.attach(device)

        with self._using(cache):
            await self._drain_online(device, cache)
            with device.held():
                await self._drain(device, cache)
                cache.release(device)
                device.set_cache(None)
                # from this commit on, its lines in the log are dead
                await self._decide(cache, attach_again)
        await self._remember(cache)

    async def _drain_online(self, device: Device, cache: Cache) -> None:
        """Leave few dirty lines, while the disk is in use."""
        for _ in range(ONLINE_ROUNDS):
            if device.nr_dirty_caches <= FEW_LINES:
                break
            await cache.drain(device)

    async def _drain(self, device: Device, cache: Cache) -> None:
        """Leave no dirty line. The gate is held."""
        await device.quiesce()
        while device.nr_dirty_caches:
            await cache.drain(device)

    async def remove(self, number: int) -> None:
        """Forget a disk: drained first, its backing left as it is (dm-lc lc-remove)."""
        self._require_writable()
        device = self.device(number)
        with self._operation(device):
            self._require_unused(device)
            if device.missing and device.nr_dirty_caches:
                raise Missing(
                    f"disk {number} is missing and its {device.nr_dirty_caches} dirty lines wait for it; bring it back first"
                )
            cache = device.cache
            with self._using(cache):
                if cache is not None:
                    await self._drain_online(device, cache)
                with device.held():
                    if cache is not None:
                        await self._drain(device, cache)
                    else:
                        await device.quiesce()
                        if device.store is not None:
                            await device.flush_backing()
                    self._require_unused(device)
                    await self._forget(device, cache)
            store, device.store = device.store, None
            if store is not None:
                await store.close()
        self._changed()

    def _require_unused(self, device: Device) -> None:
        if device.users:
            raise InUse(f"disk {device.id} is open by {device.users} user(s); close it (a loop device: losetup -d) first")

    async def _forget(self, device: Device, cache: Cache | None) -> None:
        """Take a clean disk out of the tables: the first cache's first, then that of its own cache, which decides."""

        def take_back() -> None:
            self.devices = dict(sorted({**self.devices, device.id: device}.items()))
            device.set_missing(missing)
            if cache is not None:
                device.set_cache(cache)
                cache.attach(device)

        missing, home = device.missing, self._home()
        self._leaving.add(device.id)
        try:
            if cache is not None and home is not None and home is not cache:
                with trio.CancelScope(shield=True):
                    await home.commit(both=True)
            if cache is not None:
                cache.release(device)
                device.set_cache(None)
            del self.devices[device.id]
            device.set_missing("it was removed")
            await self._decide(cache, take_back)
        finally:
            self._leaving.discard(device.id)

    async def suspend(self, device: Device, *, flush: bool = True) -> None:
        """Hold the disk's requests until `resume`; see Device.suspend."""
        with self._operation(device):
            await device.suspend(flush=flush)

    def resume(self, device: Device) -> None:
        """Let the disk's requests go."""
        device.resume()

    def cancel(self, number: int) -> None:
        """Call off what is being done with a disk: detach, remove, attach, grow, suspend, or the drop of its cache.

        It stays as it was.
        """
        device = self.device(number)
        if device.id not in self._busy:
            if device.cache is not None and device.cache.cancel_drop():
                return
            raise NoSuchThing(f"nothing is under way with disk {number}")
        self._busy[device.id].cancel()


@asynccontextmanager
async def open_manager(
    spec: MountSpec, storage: Storage, *, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Manager]:
    """Bring up a mount; leaving the block stops it cleanly. `say` gets notes for the person.

    Raises LcfsError, from bringing up (nothing was created then) as well as from the clean stop.
    """
    problem: Exception | None = None
    async with trio.open_nursery() as nursery:
        manager = Manager(storage, nursery, readonly=spec.readonly)
        try:
            async with AsyncExitStack() as undo:
                startup = Startup(storage, say, spec.readonly, undo)
                await startup.run(spec)
                await manager.start(startup)
                undo.pop_all()
            try:
                yield manager
            except BaseException:
                with trio.CancelScope(shield=True):
                    try:
                        await manager.stop()
                    except LcfsError as exc:
                        log.error("not stopped cleanly: %s", exc)
                raise
            else:
                await manager.stop()
            finally:
                with trio.CancelScope(shield=True):
                    await manager.close()
        except Exception as exc:
            problem = exc
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
