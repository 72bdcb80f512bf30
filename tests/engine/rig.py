# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache on stores in memory, small enough to look at every block of it.

    async with Rig.running() as rig:
        await rig.write(1, 0, page(7))
        await rig.cache.barrier()

A `Lab` is what lies in the drawer between two runs: the image and the backings. Migration rests unless a test
lets it run, and the modulator is off, so nothing happens that the test did not ask for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

import attrs
import trio

from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.engine.cache import Cache
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import DiskEntry, Superblock, pack_superblock
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE, SECTOR, SUPERBLOCK_AREA
from lcfs.engine.log_reader import LogReader, Record
from lcfs.engine.lookup import LineTable
from lcfs.engine.recover import resume_cache
from lcfs.engine.superblock import read_superblock
from lcfs.engine.write_buffer import NR_BUFFERS
from lcfs.testing import (
    Choose,
    DelayStore,
    Fault,
    FaultStore,
    Log,
    LogStore,
    Medium,
    MemoryStore,
    Operation,
    SparseImage,
    lose_all,
)

CACHE_UUID = UUID("c0ffee00-0000-4000-8000-000000000001")
PATIENCE = 100_000
"""Seconds of the test's clock, which jumps, after which a run counts as hung."""
QUIET = {"update_interval": 0, "allow_migrate": 0}


def page(number: int, count: int = 1) -> bytes:
    """`count` lines of which no two sectors are alike; another `number` gives other bytes everywhere."""
    return b"".join((number << 32 | at).to_bytes(8, "little") * (SECTOR // 8) for at in range(count * LINE // SECTOR))


class Stack(LogStore):
    """A medium below layers that delay, spoil and log: every call is logged, those that fail too."""

    def __init__(self, medium: Medium, name: str, log: Log, *, nowait: bool = True) -> None:
        self.medium = medium
        self.delay = DelayStore(MemoryStore(medium, name, nowait=nowait))
        self.fault = FaultStore(self.delay)
        super().__init__(self.fault, log)

    def add(self, fault: Fault) -> Fault:
        """Let calls meet `fault`."""
        return self.fault.add(fault)


@attrs.define
class Lab:
    """An image and backings that nobody has open."""

    image: Medium
    backings: dict[int, Medium]

    @classmethod
    async def new(
        cls,
        *,
        segments: int = 8,
        blocks: int = 8,
        disks: Mapping[int, int] = {1: 64 * LINE},
        tunables: Mapping[str, int] = QUIET,
    ) -> Lab:
        """A formatted image of `segments` small segments that knows `disks` (id to size), all attached."""
        size = SUPERBLOCK_AREA + segments * blocks * LINE
        lab = cls(Medium(SparseImage(size)), {number: Medium(SparseImage(size)) for number, size in disks.items()})
        store = MemoryStore(lab.image, yields=False)
        superblock = await format_image(store, uuid=CACHE_UUID, blocks_per_segment=blocks)
        table = tuple(
            DiskEntry(number, UUID(int=number), size, f"/disk{number}", f"disk{number}", CACHE_UUID)
            for number, size in disks.items()
        )
        superblock = attrs.evolve(superblock, disks=table, had_disk=True, tunables={**superblock.tunables, **tunables})
        await lab.put_superblock(superblock)
        return lab

    async def put_superblock(self, superblock: Superblock) -> None:
        """Put the same superblock in both copies, durably."""
        store = MemoryStore(self.image, yields=False)
        for copy in (0, SUPERBLOCK_AREA // 2):
            await store.write(copy, [pack_superblock(superblock)])
        await store.flush()

    async def superblock(self) -> Superblock:
        """The one in force."""
        return await read_superblock(MemoryStore(self.image, "image", yields=False))

    async def records(self, *, check_all: bool = False) -> list[Record]:
        """The log as a reader finds it."""
        reader = LogReader(MemoryStore(self.image, "image", yields=False), await self.superblock(), check_all=check_all)
        return [record async for record in reader.walk()]

    def crash(self, choose: Choose = lose_all) -> Lab:
        """What is left of it after a loss of power."""
        return Lab(self.image.crash(choose), {number: medium.crash(choose) for number, medium in self.backings.items()})

    def flip(self, offset: int) -> None:
        """One wrong bit on the image's medium, durably: what a medium does silently."""
        for image in (self.image.live, self.image.durable):
            byte = image.read(offset, 1)[0]
            image.write(offset, bytes([byte ^ 0x10]))

    @asynccontextmanager
    async def run(
        self,
        *,
        missing: Iterable[int] = (),
        nr_buffers: int = NR_BUFFERS,
        nowait: bool = True,
        clean: bool = False,
    ) -> AsyncIterator[Rig]:
        """Resume the cache and start its daemons; leaving kills them, after a clean stop with `clean`."""
        log = Log()

        image = Stack(self.image, "image", log, nowait=nowait)
        superblock = await read_superblock(image)
        backings: dict[int, Stack] = {}
        devices: dict[int, CachedDevice] = {}
        for entry in superblock.disks:
            if entry.cache_uuid is None:
                continue
            store: BlockStore | None = None
            if entry.id not in missing:
                store = backings[entry.id] = Stack(self.backings[entry.id], f"disk{entry.id}", log, nowait=nowait)
            device = devices[entry.id] = CachedDevice(entry.id, entry.size, store)
            device.table = LineTable(device.nr_lines)
        cache = await resume_cache(superblock.cache_id, image, superblock, devices.values(), nr_buffers=nr_buffers)
        await cache.begin()
        log.clear()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(cache.run)
                yield Rig(self, cache, devices, image, backings, log)
                if clean:
                    await cache.stop()
                nursery.cancel_scope.cancel()


@attrs.define
class Rig:
    """A running cache, its disks, and the layers that log and spoil its I/O."""

    lab: Lab
    cache: Cache
    devices: dict[int, CachedDevice]
    image: Stack
    backings: dict[int, Stack]
    log: Log

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        *,
        segments: int = 8,
        blocks: int = 8,
        disks: Mapping[int, int] = {1: 64 * LINE},
        tunables: Mapping[str, int] = QUIET,
        missing: Iterable[int] = (),
        nr_buffers: int = NR_BUFFERS,
        nowait: bool = True,
    ) -> AsyncIterator[Rig]:
        """A cache on a fresh image."""
        lab = await Lab.new(segments=segments, blocks=blocks, disks=disks, tunables=tunables)
        async with lab.run(missing=missing, nr_buffers=nr_buffers, nowait=nowait) as rig:
            yield rig

    async def write(self, disk: int, offset: int, data: Buffer) -> None:
        """As a request does it: at once where possible, else waiting."""
        device = self.devices[disk]
        if self.cache.write_nowait(device, offset, data) < 0:
            await self.cache.write(device, offset, data)

    async def read(self, disk: int, offset: int, length: int) -> bytes:
        """As a request does it."""
        device = self.devices[disk]
        content = self.cache.read_nowait(device, offset, length)
        if content is None:
            content = await self.cache.read(device, offset, length)
        return bytes(content)

    def backing(self, disk: int, offset: int, length: int) -> bytes:
        """What the backing holds, without asking the cache."""
        return self.lab.backings[disk].live.read(offset, length)

    def written(self, store: str = "image") -> list[tuple[int, int]]:
        """(offset, length) of the writes to a store since the log was cleared."""
        return [(call.offset, call.length) for call in self.log.of(Operation.WRITE, store)]

    def flushes(self, store: str = "image") -> int:
        """Flushes of a store since the log was cleared."""
        return self.log.count(Operation.FLUSH, store)

    def index(self, disk: int, line: int) -> int:
        """Where a line is cached; 0: nowhere."""
        return self.devices[disk].table.index[line]

    def check_counts(self) -> None:
        """nr_dirty_caches equals a recount (R10), and no line is dirty outside of the segments in use."""
        ring = self.cache.ring
        for device in self.devices.values():
            assert device.nr_dirty_caches == ring.recount(device.id)
        assert int((ring.states.dirty_array != 0).sum()) == self.cache.nr_dirty_caches
        assert not (ring.states.dirty_array & ~ring.states.valid_array).any()
