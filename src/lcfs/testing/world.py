# SPDX-License-Identifier: GPL-2.0-or-later
"""A mount on media in memory, with the model beside it and every I/O logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType

import attrs
import trio

from lcfs.engine.block_store import BlockStore
from lcfs.engine.device import Device
from lcfs.engine.errors import LcfsError
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE, SECTOR, SUPERBLOCK_AREA
from lcfs.engine.manager import Manager, open_manager
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.engine.startup import Startup
from lcfs.testing.audit import audit, audit_counts
from lcfs.testing.fault import Effect, Fault, FaultStore, Operation
from lcfs.testing.log import Log
from lcfs.testing.memory import Medium
from lcfs.testing.model import GONE, Model, Violation
from lcfs.testing.storage import MemoryStorage
from lcfs.testing.unsynced import keep_all

IMAGES = {1: "/ssd.img", 2: "/ssd2.img"}
"""Paths of the caches of a small world."""
DEAR = 64 * LINE
"""What a request to a backing costs where it is dear, in bytes that could be moved instead."""


@attrs.frozen
class Setup:
    """The sizes of a small world."""

    blocks_per_segment: int = 4
    nr_segments: int = 4
    disks: tuple[int, ...] = (16 * LINE, 16 * LINE - 512)
    """Bytes of disk 1, 2, ...; by default the last line of the second is not whole."""
    nr_caches: int = 1
    """With 2, the second disk is attached to the second cache."""
    dear: bool = False
    """A request to a backing costs as much as many lines, so that those close together are written as spans."""

    @property
    def image_bytes(self) -> int:
        """Bytes of a cache image."""
        return SUPERBLOCK_AREA + self.nr_segments * self.blocks_per_segment * LINE

    def model(self) -> Model:
        """The oracle of a fresh world; there is a disk yet to be created, as large as the last one."""
        model = Model()
        for disk, size in enumerate(self.disks, 1):
            model.add_disk(disk, size, min(disk, self.nr_caches))
        model.add_disk(len(self.disks) + 1, self.disks[-1], GONE)
        return model


async def make_media(setup: Setup) -> dict[str, Medium]:
    """Formatted images and their disks, all zero, attached, left clean, everything durable."""
    storage = MemoryStorage(yields=False)
    caches = range(1, setup.nr_caches + 1)
    for cache in caches:
        storage.add(IMAGES[cache], setup.image_bytes)
        image = await storage.open(IMAGES[cache])
        await format_image(image, cache_id=cache, blocks_per_segment=setup.blocks_per_segment)
        await image.close()
    disks = tuple(
        DeviceSpec(disk_path(disk), id=disk, size=size, cache=min(disk, setup.nr_caches))
        for disk, size in enumerate(setup.disks, 1)
    )
    async with open_manager(MountSpec(spec_of(storage.media).caches, disks), storage):
        pass
    return storage.crash(keep_all).media


def disk_path(disk: int) -> str:
    """Where the backing of a disk is."""
    return f"/disk{disk}.img"


def spec_of(media: Mapping[str, Medium]) -> MountSpec:
    """The mount of all caches there are."""
    return MountSpec(tuple(CacheSpec(path, id=cache) for cache, path in IMAGES.items() if path in media), default_disk=False)


@asynccontextmanager
async def doomed_mount(storage: MemoryStorage, *, readonly: bool = False) -> AsyncIterator[Manager]:
    """A mount whose process dies when the block is left: nothing is flushed, stopped or closed."""
    problem: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            manager = Manager(storage, nursery, readonly=readonly)
            async with AsyncExitStack() as undo:
                startup = Startup(storage, lambda _: None, readonly, undo)
                await startup.run(spec_of(storage.media))
                await manager.start(startup)
                undo.pop_all()
            yield manager
        except Exception as exc:
            problem = exc
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


class World:
    """A mount one can write to, read from, stop, kill and look into; what it answers is checked.

    `media` are what it begins on; they are not changed. `log` has all calls since the beginning.
    `model` knows the disks. Leaving the block stops what is mounted.
    """

    def __init__(
        self,
        media: Mapping[str, Medium],
        model: Model,
        *,
        yields: bool = False,
        nowait: bool = True,
        logged: bool = True,
        dear: bool = False,
    ) -> None:
        self.log = Log()
        self._dear = dear
        self.model = model
        self.model.now = self.tick
        self.storage = MemoryStorage(
            {path: medium.crash(keep_all) for path, medium in media.items()},
            log=self.log if logged else None,
            yields=yields,
            nowait=nowait,
        )
        self.storage.wrap = self._breakable
        self.manager: Manager
        self.pieces_read = 0
        """4-KiB pieces asked of caches since the last `start`, for `audit_counts`."""
        self.pieces_written = 0
        self._mount = AsyncExitStack()
        self._stores: dict[str, FaultStore] = {}
        self._broken: list[Fault] = []

    def tick(self) -> int:
        """The next point in time, among the calls to the stores."""
        return self.log.tick()

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._mount.__aexit__(kind, error, traceback)

    async def start(self, *, doomed: bool = False, readonly: bool = False) -> None:
        """Mount; recovery happens here. A doomed mount is not stopped in the end: its process dies.

        A read-only one, which is doomed, only looks: no generation begins and nothing is written.
        """
        self.pieces_read = self.pieces_written = 0
        if doomed or readonly:
            mount = doomed_mount(self.storage, readonly=readonly)
        else:
            mount = open_manager(spec_of(self.storage.media), self.storage)
        self.manager = await self._enter(mount)
        for device in self.manager.devices.values():
            self._set_price(device)

    def _set_price(self, device: Device) -> None:
        if self._dear:
            device.cost.least = DEAR

    async def _enter(self, mount: AbstractAsyncContextManager[Manager]) -> Manager:
        return await self._mount.enter_async_context(mount)

    async def stop(self) -> None:
        """Unmount cleanly, if it is mounted."""
        await self._mount.aclose()

    async def kill(self) -> None:
        """The process dies, the machine lives: the next `start` finds everything that was written.

        The old mount ends in a world of its own, where nobody sees what it writes, nor that it cannot any more.
        """
        self.log = self.log.carried_on()
        self.storage = self.storage.crash(keep_all)
        self.storage.log = self.log
        self.storage.wrap = self._breakable
        with suppress(LcfsError):
            await self.stop()

    async def kill_and_start(self) -> None:
        """The process dies and the next one recovers, which is judged."""
        await self.kill()
        await self.start()
        contents = await self.contents()
        self.model.check_recovered(contents)
        self.model.settle(contents)

    def device(self, disk: int) -> Device:
        """The disk, which must be there."""
        device = self.manager.devices[disk]
        # one that was mended this moment has not had its turn yet
        if not device.present or (device.state != "running" and not self._broken and not device.late):
            raise Violation("state", disk, 0, f"is {device.state}")
        return device

    async def write(self, disk: int, offset: int, length: int) -> None:
        """Write tagged data, at once if possible, as the mount does it."""
        if not self.there(disk):
            return
        device, request = self.device(disk), self.model.begin_write(disk, offset, length)
        if device.cache_id:
            self.pieces_written += len(request.pieces)
        taken = device.write_nowait(offset, request.data)
        if taken < 0:
            taken = await device.write(offset, request.data)
        if taken != len(request.data):
            raise Violation("write", disk, offset // SECTOR, f"took {taken} of {len(request.data)} bytes")
        request.acknowledge()

    async def read(self, disk: int, offset: int, length: int) -> bytes:
        """Read and compare with the model."""
        if not self.there(disk):
            return b""
        device, began = self.device(disk), self.model.now()
        if device.cache_id:
            self.pieces_read += -(-min(offset + length, device.size) // LINE) - offset // LINE
        data = device.read_nowait(offset, length)
        if data is None:
            data = await device.read(offset, length)
        content = bytes(data)
        if len(content) != min(length, device.size - offset):
            raise Violation("read", disk, offset // SECTOR, f"gave {len(content)} of {length} bytes")
        self.model.check_read(disk, offset, content, began)
        return content

    async def barrier(self, disk: int) -> None:
        """Flush a disk."""
        if not self.there(disk):
            return
        barrier = self.model.begin_barrier(disk)
        await self.device(disk).flush()
        barrier.done()

    def break_backing(self, disk: int, effect: Effect, *, times: int | None = None) -> Callable[[], None]:
        """Writes to a disk's backing (the next `times`, or all) fail, or hang, until the function returned is called."""
        return self.break_store(disk_path(disk), Fault(Operation.WRITE, effect, times=times))

    def break_store(self, path: str, fault: Fault) -> Callable[[], None]:
        """Calls to the store at `path` meet `fault` until the function returned is called."""
        self._stores[path].add(fault)
        self._broken.append(fault)

        def mend() -> None:
            fault.release()
            self._broken.remove(fault)

        return mend

    def hold_a_read(self, cache: int) -> Callable[[], None]:
        """The next read of a cache's image waits until the function returned is called."""
        return self._stores[IMAGES[cache]].add(Fault(Operation.READ, Effect.HANG)).release

    async def settle(self) -> None:
        """Requests failed or were called off: what can be read now is all that will ever come of them."""
        self.model.settle(await self.contents())
        self.clear_counts()

    def there(self, disk: int) -> bool:
        """Whether the disk exists now; what is asked of one that does not is not done."""
        return disk in self.manager.devices

    async def create(self, disk: int, cache: int | None) -> None:
        """Create a disk that does not exist, on its backing if that is there, else on a new one."""
        if not self.there(disk):
            change = self.model.begin_change(disk, cache)
            await self.manager.create(disk, disk_path(disk), self.model.sizes[disk], cache or 0, None)
            self._set_price(self.manager.devices[disk])
            change.done()

    async def remove(self, disk: int) -> None:
        """Remove a disk; its backing stays. A crash may leave it detached, which comes first."""
        if self.there(disk):
            changes = [self.model.begin_change(disk, cache) for cache in (None, GONE)]
            await self.manager.remove(disk)
            for change in changes:
                change.done()

    def _breakable(self, path: str, store: BlockStore) -> BlockStore:
        self._stores[path] = FaultStore(store)
        return self._stores[path]

    def clear_counts(self) -> None:
        """Begin counting pieces anew."""
        self.pieces_read = self.pieces_written = 0
        for cache in self.manager.caches.values():
            cache.stats.clear()

    async def attach(self, disk: int, cache: int = 1) -> None:
        """Attach a disk to a cache, if it has none."""
        if self.there(disk) and self.device(disk).cache_id == 0:
            change = self.model.begin_change(disk, cache)
            await self.manager.attach(disk, cache)
            change.done()

    async def detach(self, disk: int) -> None:
        """Detach a disk, if it has a cache."""
        if self.there(disk) and self.device(disk).cache_id != 0:
            change = self.model.begin_change(disk, None)
            await self.manager.detach(disk)
            change.done()

    async def contents(self) -> dict[int, bytes]:
        """What all disks hold, unchecked."""
        found = {}
        for disk in self.manager.devices:
            device = self.device(disk)
            data = device.read_nowait(0, device.size)
            if device.cache_id:
                self.pieces_read += device.nr_lines
            found[disk] = bytes(await device.read(0, device.size) if data is None else data)
        return found

    def caches_of(self) -> dict[int, int | None]:
        """The cache each disk is attached to, or GONE."""
        return {disk: (self.device(disk).cache_id or None) if self.there(disk) else GONE for disk in self.model.sizes}

    def audit(self) -> None:
        """States are good, and counters agree with the tables (R10). Nothing may be in flight."""
        for cache in self.manager.caches.values():
            if cache.state != "running":
                raise Violation("state", 0, 0, f"cache {cache.id} is {cache.state}")
            audit(cache)
        audit_counts(self.manager.caches.values(), self.pieces_read, self.pieces_written)

    async def check(self) -> None:
        """Every disk reads as the model says, and the books are right."""
        for disk, size in self.model.sizes.items():
            await self.read(disk, 0, size)
        self.audit()
