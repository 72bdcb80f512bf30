# SPDX-License-Identifier: GPL-2.0-or-later
"""A mount of one cache on media in memory, whose calls are logged and can be delayed, failed or cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import pytest

from lcfs.engine import BlockStore, Cache, CacheSpec, Device, DeviceSpec, Failed, Manager, MountSpec, format_image, open_manager
from lcfs.engine.geometry import LINE as LINE
from lcfs.engine.geometry import SECTOR as SECTOR
from lcfs.engine.geometry import SUPERBLOCK_AREA
from lcfs.testing import (
    Choose,
    DelayStore,
    Effect,
    Fault,
    FaultStore,
    Log,
    LogStore,
    Medium,
    MemoryStorage,
    Operation,
    SparseImage,
    Survival,
    keep_all,
)
from lcfs.testing.crash_states import CrashPoint
from lcfs.testing.tags import tagged

Disks = Mapping[int, int] | MountSpec
"""Disks of one cache (id -> size), or all that is to be mounted."""
IMAGE = "/ssd.img"
MIB = 1 << 20
LOG_START = SUPERBLOCK_AREA
"""Byte offset in the image at which segment 1 begins."""


def backing(disk: int) -> str:
    """Where the backing of a disk is."""
    return f"/disk{disk}.img"


def lines(disk: int, first: int, count: int, number: int) -> bytes:
    """What write `number` puts into whole lines of a disk; every sector says where it belongs."""
    return tagged(disk, first * LINE, count * LINE, number)


def sectors(disk: int, first: int, count: int, number: int) -> bytes:
    """The same for sectors."""
    return tagged(disk, first * SECTOR, count * SECTOR, number)


class Rig:
    """Media in memory, and the layers that the engine meets them through.

    From the engine's side: log, faults, delay, memory. `faults` and `delays` are those of the stores opened last.
    """

    def __init__(self, storage: MemoryStorage | None = None, *, nowait: bool = True) -> None:
        self.storage = MemoryStorage(nowait=nowait) if storage is None else storage
        self.storage.wrap = self._wrap
        self.log = Log()
        self.faults: dict[str, FaultStore] = {}
        self.delays: dict[str, DelayStore] = {}

    def _wrap(self, path: str, store: BlockStore) -> BlockStore:
        self.delays[path] = DelayStore(store)
        self.faults[path] = FaultStore(self.delays[path])
        return LogStore(self.faults[path], self.log)

    def medium(self, path: str) -> Medium:
        """What is at a path."""
        return self.storage.media[path]

    def add_backing(self, disk: int, content: bytes) -> None:
        """An existing backing, of zeros behind `content`, all of it durable."""
        self.storage.media[backing(disk)] = Medium(SparseImage.of(content, max(MIB, len(content))))

    def fault(self, path: str, operation: Operation, effect: Effect = Effect.ERROR, **details: int | None) -> Fault:
        """From now on calls to the store at `path` meet this fault."""
        return self.faults[path].add(Fault(operation, effect, **details))  # type: ignore[arg-type]

    async def format(self, nr_segments: int, blocks_per_segment: int) -> None:
        """An image of small segments, so that the ring is soon once around."""
        self.storage.add(IMAGE, SUPERBLOCK_AREA + nr_segments * blocks_per_segment * LINE)
        store = await self.storage.open(IMAGE)
        await format_image(store, blocks_per_segment=blocks_per_segment)
        await store.close()

    @asynccontextmanager
    async def mounted(self, disks: Disks | None = None, *, quiet: bool = True) -> AsyncIterator[Manager]:
        """A mount with these disks (id -> size; those the image knows need not be given) and a clean stop at its end.

        `quiet`: nothing but what the test does moves data; the modulator rests and migration is not allowed.
        Calls that hang go through at the end: what a crash leaves was taken before.
        """
        spec = disks if isinstance(disks, MountSpec) else one_cache(disks or {})
        async with open_manager(spec, self.storage) as manager:
            for cache in manager.caches.values():
                if quiet:
                    await calm(cache)
            yield manager
            for fault in [fault for store in self.faults.values() for fault in store.faults]:
                if fault.effect is Effect.HANG:
                    fault.release()

    @asynccontextmanager
    async def doomed(self, disks: Disks | None = None) -> AsyncIterator[Manager]:
        """A mount that cannot be stopped cleanly: its end must raise Failed, which hides no error of the test."""
        error: BaseException | None = None
        with pytest.raises(Failed):
            async with self.mounted(disks) as manager:
                try:
                    yield manager
                except BaseException as exc:
                    error = exc
                    raise
        if error is not None:
            raise error

    def crash(self, choose: Choose | Mapping[str, Choose]) -> Rig:
        """What a machine finds whose power failed now; see MemoryStorage.crash."""
        return Rig(self.storage.crash(choose))


def one_cache(disks: Mapping[int, int], cache_size: int = 4 * MIB) -> MountSpec:
    """One cache, of three segments where it is made anew, with these disks attached (id -> size)."""
    devices = tuple(DeviceSpec(backing(disk), id=disk, size=size) for disk, size in disks.items())
    return MountSpec((CacheSpec(IMAGE),), devices, cache_size=cache_size, default_disk=False)


def found_after(point: CrashPoint, survival: Survival) -> Rig:
    """What a machine finds after a crash at `point`, free to be written to."""
    return Rig(MemoryStorage(point.media(survival)).crash(keep_all))


async def calm(cache: Cache) -> None:
    """Leave migration to the test."""
    await cache.set_tunable("update_interval", 0)
    await cache.set_tunable("allow_migrate", 0)


async def write(device: Device, offset: int, data: bytes) -> None:
    """A write as the mount does it: at once if possible, else waiting."""
    taken = device.write_nowait(offset, data)
    assert (await device.write(offset, data) if taken < 0 else taken) == len(data)


async def read(device: Device, offset: int, length: int) -> bytes:
    """A read as the mount does it."""
    found = device.read_nowait(offset, length)
    return bytes(await device.read(offset, length) if found is None else found)


async def read_all(device: Device) -> bytes:
    """What the whole disk holds."""
    return await read(device, 0, device.size)


def on_backing(rig: Rig, disk: int) -> bytes:
    """What a backing holds, flushed or not."""
    live = rig.medium(backing(disk)).live
    return live.read(0, live.size)


@contextmanager
def no_calls(log: Log, *operations: Operation) -> Iterator[None]:
    """Within, no store gets any call (of these kinds)."""
    before = log.now
    yield
    seen = [call for call in log.calls if call.began > before and (not operations or call.operation in operations)]
    assert not seen, [(call.store, call.operation.value, call.offset, call.length) for call in seen]


async def recovered(rig: Rig) -> dict[int, bytes]:
    """What the disks hold after a recovery, which is also what migration puts on their backings."""
    async with rig.mounted() as manager:
        found = {disk: await read_all(device) for disk, device in manager.devices.items()}
        await manager.caches[1].drop_caches()
    for disk, content in found.items():
        assert on_backing(rig, disk) == content, f"disk {disk} is migrated as something else than it was read"
    return found
