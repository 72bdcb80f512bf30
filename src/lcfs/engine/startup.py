# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing up a mount: first look at everything, then create what is missing, then recover.

Nothing is written before everything was looked at, and what was created is removed again when a later step
fails: a refused mount leaves no trace.
"""

from __future__ import annotations

import logging
import os
import secrets
import uuid as _uuid
from collections.abc import Callable
from contextlib import AsyncExitStack

import attrs

from lcfs.engine.block_store import BlockStore, Fill, Label, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_format import DiskEntry, Superblock
from lcfs.engine.disk_table import merge_tables
from lcfs.engine.errors import AlreadyThere, Failed, Invalid, LcfsError, NoSpace, NoSuchThing, Unsuitable, WrongDisk
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import SECTOR
from lcfs.engine.recover import catch_up, resume_cache
from lcfs.engine.spec import (
    DEFAULT_DISK_SIZE,
    CacheSpec,
    DeviceSpec,
    MountSpec,
    check_cache_size,
    check_disk_size,
    check_id,
    check_name,
    free_id,
)
from lcfs.engine.superblock import read_superblocks

log = logging.getLogger("lcfs.engine.startup")


@attrs.define(eq=False)
class Startup:
    """The steps of bringing up, in order. The manager takes `caches` and `devices` at the end."""

    storage: Storage
    say: Callable[[str], None]
    readonly: bool
    stack: AsyncExitStack
    """Closes stores, and removes what was created, when bringing up fails."""
    caches: dict[int, Cache] = attrs.field(factory=dict)
    """In the order of the command: the first one's image remembers all disks."""
    devices: dict[int, Device] = attrs.field(factory=dict)
    _images: list[tuple[int, BlockStore, Superblock]] = attrs.field(factory=list)
    _new_images: list[tuple[int, str, int]] = attrs.field(factory=list)
    _order: list[int] = attrs.field(factory=list)
    _stale: set[int] = attrs.field(factory=set)

    async def run(self, spec: MountSpec) -> None:
        """All of it. Raises LcfsError; what it did until then is undone by `stack`."""
        await self._look_at_images(spec)
        entries = merge_tables(superblock for _, _, superblock in self._images)
        wanted = [self._canonical(device) for device in spec.devices]
        self._check_distinct(entries, wanted)
        for entry in entries:
            await self._open_known(entry, wanted)
        plan: list[_NewDisk] = []
        for device in wanted:
            if not any(self.storage.same(known.path, device.path) for known in self.devices.values()):
                plan.append(await self._look_at_new(device, wanted, plan))
        if spec.default_disk and not plan and not entries and not any(sb.had_disk for _, _, sb in self._images):
            plan += await self._default_disk()
        if self.readonly and (self._new_images or any(disk.store is None for disk in plan)):
            raise NoSuchThing("a read-only mount creates nothing; give an image and disks that exist")
        await self._create_images()
        created = [await self._create_disk(disk) for disk in plan]
        await self._recover(wanted)
        for disk in created:
            self.devices[disk.id] = disk
            for cache in self.caches.values():
                if disk.cache_uuid == cache.uuid:
                    disk.attached_at = cache.durable
                    disk.set_cache(cache)
                    cache.attach(disk)
        self.devices = dict(sorted(self.devices.items()))

    # Images

    async def _look_at_images(self, spec: MountSpec) -> None:
        """Open the images that exist and give every cache its id."""
        paths: list[str] = []
        chosen: list[tuple[CacheSpec, str, BlockStore | None, Superblock | None]] = []
        for cache in spec.caches:
            if cache.id is not None:
                check_id("cache", cache.id)
            path = self.storage.canonical(cache.path)
            if any(self.storage.same(path, other) for other in paths):
                raise AlreadyThere(f"{cache.path} is given twice; a cache image is mounted once")
            paths.append(path)
            if not self.storage.exists(path):
                check_cache_size(cache.size or spec.cache_size)
                chosen.append((cache, path, None, None))
                continue
            store = await self._open(path)
            copies = await read_superblocks(store)
            superblock = copies.best(path)
            for number in copies.damaged:
                self.say(f"{path}: superblock copy {number} is damaged ({copies.copies[number]}); the other one is used")
            if copies.damaged:
                superblock = await catch_up(store, superblock)
            for _, other, _, known in chosen:
                if known is not None and known.uuid == superblock.uuid:
                    raise AlreadyThere(f"{path} is a copy of {other}; mount one of them only")
            chosen.append((cache, path, store, superblock))
        used = {cache.id for cache, *_ in chosen if cache.id is not None}
        if len(used) < sum(cache.id is not None for cache, *_ in chosen):
            raise AlreadyThere("two caches are given the same id; give each its own")
        for wanted, path, image, found in chosen:
            cache_id = wanted.id
            if cache_id is None:
                remembered = found.cache_id if found is not None else 0
                cache_id = remembered if remembered and remembered not in used else free_id("cache", used)
                used.add(cache_id)
            self._order.append(cache_id)
            if image is not None and found is not None:
                self._images.append((cache_id, image, found))
            else:
                self._new_images.append((cache_id, path, wanted.size or spec.cache_size))

    async def _create_images(self) -> None:
        for number, path, size in self._new_images:
            formatted: list[Superblock] = []

            async def fill(store: BlockStore, number: int = number, formatted: list[Superblock] = formatted) -> None:
                formatted.append(await format_image(store, cache_id=number))

            try:
                store = await self._create(path, size, fill)
            except OSError as exc:
                raise NoSpace(f"{path} could not be formatted: {exc.strerror or exc}; free some room", errno=exc.errno) from exc
            (superblock,) = formatted
            self.say(f"created cache {number}: {path}, {human(size)}, sparse")
            self._images.append((number, store, superblock))
        self._images.sort(key=lambda image: self._order.index(image[0]))

    async def _create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        store = await self.storage.create(path, size, fill)
        self.stack.push_async_callback(self.storage.remove, path)
        self.stack.push_async_callback(store.close)
        return store

    async def _recover(self, wanted: list[DeviceSpec]) -> None:
        for number, store, superblock in self._images:
            own = [device for device in self.devices.values() if device.cache_uuid == superblock.uuid]
            for device in own:
                device.make_table()
            cache = await resume_cache(number, store, superblock, own, say=self.say)
            self.caches[number] = cache
            for device in own:
                device.adopt(cache)
        for device in self.devices.values():
            await self._decide_on_stale(device, wanted)
            if device.missing and device.nr_dirty_caches:
                self.say(f"disk {device.id}: its {device.nr_dirty_caches} dirty lines are kept in cache {device.cache_id}")

    async def _decide_on_stale(self, device: Device, wanted: list[DeviceSpec]) -> None:
        """A backing that was in use elsewhere since: fit to be used only when the cache has nothing to put on it (R7)."""
        if device.id not in self._stale:
            return
        if not device.nr_dirty_caches:
            self.say(f"disk {device.id} ({device.path}) was in use under another cache since; nothing was to be migrated")
            device.set_missing("")
            return
        if any(self.storage.same(device.path, named.path) for named in wanted):
            raise WrongDisk(device.missing)
        self.say(f"disk {device.id} is missing: {device.missing}")
        await self._let_go(device)

    # Disks

    def _canonical(self, device: DeviceSpec) -> DeviceSpec:
        if device.id is not None:
            check_id("disk", device.id)
        if device.name is not None:
            check_name(device.name)
        if device.size is not None:
            check_disk_size(device.size)
        if device.cache is not None and device.cache != 0 and device.cache not in self._order:
            raise NoSuchThing(f"{device.path} is to be attached to cache {device.cache}, which is not mounted here")
        return attrs.evolve(device, path=self.storage.canonical(device.path))

    def _check_distinct(self, entries: list[DiskEntry], wanted: list[DeviceSpec]) -> None:
        same = self.storage.same
        images = [path for _, path in self._paths()]
        backings = [device.path for device in wanted]
        for at, path in enumerate(backings):
            if any(same(path, image) for image in images):
                raise Invalid(f"{path} is given as cache image and as disk; give each a file of its own")
            if any(same(path, other) for other in backings[:at]):
                raise AlreadyThere(f"{path} is given as two disks; give each a file of its own")
        ids = [device.id for device in wanted if device.id is not None]
        for number in ids:
            if ids.count(number) > 1:
                raise AlreadyThere(f"two disks are given the id {number}; give each its own")
        known = {entry.id: entry for entry in entries}
        for device in wanted:
            entry = next((entry for entry in entries if same(entry.path, device.path)), None)
            if entry is None and device.id in known:
                raise WrongDisk(
                    f"disk {device.id} is {known[device.id].path} in this cache, not {device.path}; "
                    "give the new disk another id, or remove the old one first"
                )
            if entry is not None:
                self._check_agrees(entry, device)

    def _check_agrees(self, entry: DiskEntry, device: DeviceSpec) -> None:
        if device.id is not None and device.id != entry.id:
            raise WrongDisk(f"{device.path} is disk {entry.id} in this cache, not {device.id}; leave the id out")
        if device.size is not None and device.size != entry.size:
            raise WrongDisk(f"disk {entry.id} has {entry.size} bytes in this cache, not {device.size}; leave the size out")
        if device.name is not None and device.name != entry.name:
            raise WrongDisk(f"disk {entry.id} is called {entry.name!r} in this cache; write its name attribute to rename it")
        if device.cache is not None:
            here = {superblock.uuid: number for number, _, superblock in self._images}
            attached = here.get(entry.cache_uuid, -1) if entry.cache_uuid is not None else 0
            if attached != device.cache:
                raise WrongDisk(
                    f"disk {entry.id} is attached to cache {attached}, not {device.cache}; mount first, then detach and attach"
                )

    async def _open_known(self, entry: DiskEntry, wanted: list[DeviceSpec]) -> None:
        """A disk of the table. One that cannot be had is missing, unless the command names it: then nothing is mounted."""
        device = Device(entry, None, readonly=self.readonly)
        self.devices[entry.id] = device
        here = {superblock.uuid for _, _, superblock in self._images}
        if entry.cache_uuid is not None and entry.cache_uuid not in here:
            device.set_missing(f"its cache {entry.cache_uuid} is not mounted")
            self.say(f"disk {entry.id} ({entry.path}) is not used: {device.missing}")
            return
        try:
            device.store = await self._open(entry.path)
            if await is_stale(device, device.store):
                self._stale.add(entry.id)
                device.set_missing(
                    f"{entry.path} was in use under another cache since disk {entry.id} was last used here; "
                    "put the file back as it was, or remove the disk"
                )
        except LcfsError as exc:
            if any(self.storage.same(entry.path, device.path) for device in wanted):
                raise
            await self._let_go(device)
            device.set_missing(str(exc))
            self.say(f"disk {entry.id} is missing: {exc}")

    async def _let_go(self, device: Device) -> None:
        """Give the lock of a backing back that will not be used."""
        if device.store is not None:
            await device.store.close()
            device.store = None

    async def _open(self, path: str) -> BlockStore:
        store = await self.storage.open(path, readonly=self.readonly)
        self.stack.push_async_callback(store.close)
        return store

    async def _look_at_new(self, device: DeviceSpec, wanted: list[DeviceSpec], plan: list[_NewDisk]) -> _NewDisk:
        """A disk that no image knows: its row, and its backing when that exists."""
        used = {*self.devices, *(disk.entry.id for disk in plan), *(named.id for named in wanted if named.id is not None)}
        number = device.id if device.id is not None else free_id("disk", used)
        store = await self._open(device.path) if self.storage.exists(device.path) else None
        entry = await new_entry(number, device.path, device.size, device.name, store)
        known = {known.uuid for known in self.devices.values()} | {disk.entry.uuid for disk in plan}
        if entry.uuid in known:
            raise AlreadyThere(f"{device.path} carries the UUID of another disk here; it is that disk, or a copy of it")
        return _NewDisk(entry, store, self._order[0] if device.cache is None else device.cache)

    async def _default_disk(self) -> list[_NewDisk]:
        """Disk 1 beside the first image; none beside a block device."""
        first = self._order[0]
        path = next(path for number, path in self._paths() if number == first)
        if path.startswith("/dev/"):
            self.say("there is no disk yet; make one with `lcfs device create`")
            return []
        backing = f"{path.removesuffix('.img')}.disk1.img"
        store: BlockStore | None = None
        if self.storage.exists(backing):
            store = await self._open(backing)
            # a crash while the very first mount was creating things leaves such a file
            if store.size != DEFAULT_DISK_SIZE or not await store.is_blank():
                raise AlreadyThere(
                    f"{backing} already exists and {path} does not know it; name it with --device {backing} to use it as it is"
                )
        return [_NewDisk(DiskEntry(1, _uuid.uuid4(), DEFAULT_DISK_SIZE, backing, "disk1", None), store, first)]

    def _paths(self) -> list[tuple[int, str]]:
        return [(number, store.name) for number, store, _ in self._images] + [
            (number, path) for number, path, _ in self._new_images
        ]

    async def _create_disk(self, disk: _NewDisk) -> Device:
        store = disk.store
        if store is None:
            store = await self._create(disk.entry.path, disk.entry.size)
            self.say(f"created disk {disk.entry.id}: {disk.entry.path}, {human(disk.entry.size)}, sparse")
        uuids = {number: superblock.uuid for number, _, superblock in self._images}
        return Device(attrs.evolve(disk.entry, cache_uuid=uuids.get(disk.cache)), store, readonly=self.readonly)


@attrs.frozen
class _NewDisk:
    """A disk that is to be made or taken in."""

    entry: DiskEntry
    store: BlockStore | None
    """Its backing, where that exists."""
    cache: int
    """Id of the cache it is to be attached to; 0: none."""


async def is_stale(device: Device, store: BlockStore) -> bool:
    """Whether the backing of a known disk was in use under another cache since.

    The stamp it carries is kept as the one before: a crash before it gets a new one leaves it valid.
    Raises WrongDisk when it is not that disk: it has shrunk, or carries another UUID (R7).
    """
    entry = device.entry()
    if store.size < entry.size:
        raise WrongDisk(
            f"{entry.path} has {store.size} bytes and disk {entry.id} had {entry.size}: it has shrunk; "
            "restore its size and content"
        )
    try:
        label = await store.read_label()
    except OSError as exc:
        raise Failed(f"{entry.path} cannot be read: {exc.strerror or exc}; check the device", errno=exc.errno) from exc
    if label is None:
        return False
    if label.uuid != entry.uuid:
        raise WrongDisk(f"{entry.path} carries the UUID {label.uuid}, disk {entry.id} is {entry.uuid}: another disk")
    if label.stamp not in (entry.stamp, entry.previous_stamp):
        return True
    device.previous_stamp = label.stamp
    return False


async def new_entry(number: int, path: str, size: int | None, name: str | None, store: BlockStore | None) -> DiskEntry:
    """The row of a disk nobody knows yet. `store` is its backing where that exists.

    Raises Unsuitable or Invalid for a size that the backing does not have.
    """
    uuid, stamp = _uuid.uuid4(), 0
    if store is not None:
        whole = store.size - store.size % SECTOR
        if whole == 0:
            raise Unsuitable(f"{path} has {store.size} bytes, less than a sector; give a larger file")
        if size is not None and size > whole:
            raise Unsuitable(f"{path} has {whole} bytes, less than the {size} asked for; give a smaller size")
        size = size if size is not None else whole
        try:
            label = await store.read_label()
        except OSError as exc:
            raise Failed(f"{path} cannot be read: {exc.strerror or exc}", errno=exc.errno) from exc
        if label is not None:
            uuid, stamp = label.uuid, label.stamp
    return DiskEntry(
        id=number,
        uuid=uuid,
        size=check_disk_size(size if size is not None else DEFAULT_DISK_SIZE),
        path=path,
        name=check_name(name) if name is not None else f"disk{number}",
        cache_uuid=None,
        previous_stamp=stamp,
    )


async def restamp(device: Device) -> None:
    """Mark the backing as in use by this mount. The new stamp must be durable in the superblock before.

    A backing that cannot be marked keeps the stamp it has, which stays valid: worth a warning, no more.
    """
    if device.store is not None:
        try:
            await device.store.write_label(Label(device.uuid, device.stamp))
        except OSError as exc:
            log.warning("disk %d: %s cannot be marked as in use: %s", device.id, device.path, exc)


def new_stamp(device: Device) -> None:
    """Give the disk a stamp of this mount. `previous_stamp` is what the backing carries until `restamp`."""
    device.stamp = secrets.randbits(64)


def human(size: int) -> str:
    """A size for a person: `256 MiB`."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def absolute(path: str) -> str:
    """`path` if it is absolute; raises Invalid: the daemon's directory is not the caller's."""
    if "\0" in path:
        raise Invalid(f"{path!r} holds a zero byte; no path does")
    if not os.path.isabs(path):
        raise Invalid(f"{path!r} is not an absolute path; write it out from /")
    return path
