# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounts on a file system in memory: `Bench` is the machine, `bench.mount(...)` a mount on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from lcfs.engine.block_store import BlockStore
from lcfs.engine.device import Device
from lcfs.engine.disk_format import Superblock
from lcfs.engine.errors import LcfsError
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA
from lcfs.engine.manager import Manager, open_manager
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.engine.superblock import read_superblock
from lcfs.testing import DelayStore, Fault, FaultStore, MemoryStorage, MemoryStore, SparseImage
from tests.engine.rig import PATIENCE

MIB = 1 << 20
DISK = 64 * LINE
"""Bytes of a small disk."""


@attrs.define
class Bench:
    """A machine with images and backings. `faults` and `slow` are put on what is opened at their paths."""

    storage: MemoryStorage = attrs.field(factory=MemoryStorage)
    said: list[str] = attrs.field(factory=list)
    faults: dict[str, list[Fault]] = attrs.field(factory=dict)
    slow: dict[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.storage.wrap = self._wrap

    def _wrap(self, path: str, store: BlockStore) -> BlockStore:
        layered = FaultStore(DelayStore(store, writes=self.slow.get(path, 0.0), flushes=self.slow.get(path, 0.0)))
        layered.faults = self.faults.setdefault(path, [])
        return layered

    def fault(self, path: str, fault: Fault) -> Fault:
        """Let calls to the store at `path` meet `fault`, now or when it is opened."""
        self.faults.setdefault(path, []).append(fault)
        return fault

    async def image(self, path: str = "/ssd.img", *, cache_id: int = 1, segments: int = 16, blocks: int = 8) -> None:
        """A small empty cache image at `path`."""
        medium = self.storage.add(path, SUPERBLOCK_AREA + segments * blocks * LINE)
        await format_image(MemoryStore(medium), cache_id=cache_id, blocks_per_segment=blocks)

    async def superblock(self, path: str = "/ssd.img") -> Superblock:
        """The superblock in force at `path`, whoever has it open."""
        return await read_superblock(MemoryStore(self.storage.media[path], path, yields=False))

    @asynccontextmanager
    async def mount(
        self,
        *caches: str | CacheSpec,
        devices: tuple[DeviceSpec, ...] = (),
        cache_size: int = 2 * MIB,
        readonly: bool = False,
        default_disk: bool = False,
    ) -> AsyncIterator[Manager]:
        """Mount; /ssd.img where no cache is named. Leaving stops it cleanly."""
        specs = tuple(CacheSpec(cache) if isinstance(cache, str) else cache for cache in caches or ("/ssd.img",))
        spec = MountSpec(specs, devices, cache_size=cache_size, readonly=readonly, default_disk=default_disk)
        with trio.fail_after(PATIENCE):
            async with open_manager(spec, self.storage, say=self.said.append) as manager:
                yield manager

    @asynccontextmanager
    async def doomed(
        self, error: type[LcfsError], sentence: str, *caches: str | CacheSpec, devices: tuple[DeviceSpec, ...] = ()
    ) -> AsyncIterator[Manager]:
        """A mount whose stop is going to fail. An error of the block itself is not taken for that one."""
        problem: Exception | None = None
        try:
            with pytest.raises(error, match=sentence):
                async with self.mount(*caches, devices=devices) as manager:
                    try:
                        yield manager
                    except Exception as exc:
                        problem = exc
        finally:
            if problem is not None:
                raise problem

    def snapshot(self) -> dict[str, SparseImage]:
        """Everything there is, to be compared later."""
        return {path: medium.live.copy() for path, medium in self.storage.media.items()}

    def nothing_is_open(self) -> bool:
        """Whether every lock was given back."""
        return not any(self.storage.is_open(path) for path in self.storage.media)


async def write(device: Device, offset: int, data: bytes) -> None:
    """As the mount does it."""
    if device.write_nowait(offset, data) < 0:
        assert await device.write(offset, data) == len(data)


async def read(device: Device, offset: int, length: int) -> bytes:
    """As the mount does it."""
    content = device.read_nowait(offset, length)
    if content is None:
        content = await device.read(offset, length)
    return bytes(content)
