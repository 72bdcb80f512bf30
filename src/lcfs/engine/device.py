# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual disk: range checks, the gate that suspend closes, and the way past the cache when it has none."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import trio

from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.engine.cache import Cache
from lcfs.engine.cached_device import HUNG_AFTER, CachedDevice
from lcfs.engine.disk_format import DiskEntry
from lcfs.engine.errors import Failed, LcfsError, Missing, NoSpace, NotPermitted
from lcfs.engine.geometry import LINE
from lcfs.engine.latency import BACKING, IMAGE, RAM, Latency
from lcfs.engine.lookup import LineTable


class Device(CachedDevice):
    """One disk of the mount, with a cache or without.

    Requests come in pairs: `x_nowait` does it at once or says that it cannot, `x` waits for whatever it takes.
    """

    def __init__(self, entry: DiskEntry, store: BlockStore | None, *, readonly: bool = False) -> None:
        super().__init__(entry.id, entry.size, store)
        self.uuid: UUID = entry.uuid
        self.name = entry.name
        self.path = entry.path
        self.migrate_threshold = entry.migrate_threshold
        self.readonly = readonly
        self.attached_at = entry.attached_at
        self.stamp = entry.stamp
        self.previous_stamp = entry.previous_stamp
        self.cache: Cache | None = None
        self.cache_uuid: UUID | None = entry.cache_uuid
        """The cache it belongs to; one that is not mounted keeps it from being used."""
        self.missing = ""
        """Why it cannot be used at all; empty when it can."""
        self.users = 0
        """Open handles of its file. The mount counts them."""
        self.suspended = False
        self.nr_errors = 0
        """Requests that failed."""
        self.latency = Latency()
        """How long its requests took. Whoever hands them over times them."""
        self._fast: Cache | None = None
        """`cache` while requests may pass without waiting, else None: one look in the hot path."""
        self._holds = 0
        self._opened = trio.Event()
        self._in_flight = 0
        self._idle = trio.Event()
        self._flush_lock = trio.Lock()
        self._flush_failure = ""

    # What it is and how it is

    @property
    def cache_id(self) -> int:
        """Id of its cache; 0 for none (dm-lc cache_id)."""
        return self.cache.id if self.cache is not None else 0

    @property
    def present(self) -> bool:
        """Whether it can be read and written."""
        return not self.missing

    @property
    def state(self) -> str:
        """`running`, `missing`, `degraded` or `failed`, with the reason behind it."""
        if self.missing:
            return f"missing {self.missing}"
        if self.cache is not None and self.cache.failed:
            return f"failed its cache {self.cache.id} has failed"
        if self._flush_failure:
            return f"failed {self._flush_failure}"
        if self.fault:
            return f"degraded {self.fault}"
        if self.late:
            since = f"{HUNG_AFTER:.0f} s"
            return f"degraded {self.path} has been at one write for more than {since}; its dirty lines stay in the cache"
        return "running"

    def entry(self) -> DiskEntry:
        """Its row of the disk table."""
        return DiskEntry(
            id=self.id,
            uuid=self.uuid,
            size=self.size,
            path=self.path,
            name=self.name,
            cache_uuid=self.cache_uuid,
            attached_at=self.attached_at,
            stamp=self.stamp,
            previous_stamp=self.previous_stamp,
            migrate_threshold=self.migrate_threshold,
        )

    def device_number(self) -> str:
        """`major:minor` of the block device that is, or holds, the backing."""
        return self.store.device_number() if self.store is not None else "0:0"

    def set_cache(self, cache: Cache | None) -> None:
        """Send requests to `cache`, or straight to the backing. Nothing may be in flight."""
        self.cache = cache
        self.cache_uuid = cache.uuid if cache is not None else None
        self.table = LineTable(self.nr_lines if cache is not None else 0)
        self._update_gate()

    def resize(self, size: int) -> None:
        """Have another size, as long as no line beyond it is cached. Nothing may be in flight."""
        if self.cache is not None:
            table = LineTable(-(-size // LINE))
            self.cache.ring.move_lines(self, table)
            self.table = table
        self.size = size

    def make_table(self) -> None:
        """Room for its lines' addresses, before recovery fills it."""
        self.table = LineTable(self.nr_lines)

    def adopt(self, cache: Cache) -> None:
        """Belong to the cache that recovery has put its lines in."""
        self.cache = cache
        self._update_gate()

    def set_missing(self, reason: str) -> None:
        """It cannot be used from now on, or again when `reason` is empty."""
        self.missing = reason
        self._update_gate()

    # Requests

    def write_nowait(self, offset: int, data: bytes) -> int:
        """Bytes taken at once, all of them; or -1: use `write`."""
        cache = self._fast
        if cache is None or offset + len(data) > self.size:
            return -1
        return cache.write_nowait(self, offset, data)

    async def write(self, offset: int, data: bytes) -> int:
        """Bytes taken; fewer than given when the write crosses the end of the disk.

        Raises NoSpace when it begins past the end or the cache cannot take more, NotPermitted (EROFS),
        Missing, Failed, OSError.
        """
        async with self._request():
            if self.readonly:
                raise NotPermitted(f"disk {self.id} is mounted read-only", errno=errno.EROFS)
            if offset >= self.size and data:
                raise NoSpace(f"byte {offset} is past the end of disk {self.id}, which has {self.size} bytes")
            part = memoryview(data)[: self.size - offset]
            if self.cache is not None:
                await self.cache.write(self, offset, part)
            else:
                await self._backing().write(offset, [part])
            return len(part)

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """The bytes, valid until the next await; or None: use `read`."""
        cache = self._fast
        if cache is None or offset + length > self.size or length <= 0:
            return None
        return cache.read_nowait(self, offset, length)

    async def read(self, offset: int, length: int) -> Buffer:
        """The bytes; fewer, or none, at the end of the disk. Raises Missing, Failed, OSError."""
        async with self._request():
            length = min(length, self.size - offset)
            if length <= 0:
                return b""
            if self.cache is not None:
                return await self.cache.read(self, offset, length)
            store, data = self._backing(), bytearray(length)
            if not store.readinto_nowait(offset, memoryview(data)):
                await store.readinto(offset, memoryview(data))
            return data

    # Where a request is served, for `latency`; asked before it is

    def read_source(self, offset: int, length: int) -> int:
        """BACKING when any line of it is not cached, or only in part; else IMAGE when any is not in RAM; else RAM."""
        if self.cache is None:
            return BACKING
        length = min(length, self.size - offset)
        return self.cache.read_source(self, offset, length) if length > 0 else RAM

    def write_source(self) -> int:
        """RAM, or BACKING without a cache."""
        return BACKING if self.cache is None else RAM

    def barrier_source(self) -> int:
        """IMAGE, or BACKING without a cache."""
        return BACKING if self.cache is None else IMAGE

    async def flush(self) -> None:
        """A barrier: everything acknowledged before is durable when this returns.

        Raises Failed (EIO), NoSpace, Missing, OSError.
        """
        async with self._request():
            if self.readonly:
                return
            if self.cache is not None:
                await self.cache.barrier()
            else:
                await self.flush_backing()

    async def flush_backing(self) -> None:
        """Make durable what went past the cache. Raises Failed, for good after the first time; Missing."""
        # one at a time, and after one that failed all fail until remounted: the kernel reports an error only once
        async with self._flush_lock:
            if not self._flush_failure:
                try:
                    await self._backing().flush()
                except OSError as exc:
                    self._flush_failure = f"{self.path} could not be flushed: {exc.strerror or exc}"
            if self._flush_failure:
                raise Failed(f"disk {self.id} has failed: {self._flush_failure}; what was not synced before may be lost")

    def _backing(self) -> BlockStore:
        if self.store is None:
            raise Missing(f"the backing of disk {self.id} is missing: {self.missing}")
        return self.store

    # The gate

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[None]:
        while self._holds:
            await self._opened.wait()
        if self.missing:
            raise Missing(f"disk {self.id} is missing: {self.missing}")
        self._in_flight += 1
        try:
            yield
        except (LcfsError, OSError):
            self.nr_errors += 1
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Requests wait while this is open; those already accepted go on (see `quiesce`)."""
        self._holds += 1
        self._update_gate()
        try:
            yield
        finally:
            self._holds -= 1
            self._update_gate()

    async def quiesce(self) -> None:
        """With the gate held: return when no request is in flight."""
        while self._in_flight:
            self._idle = trio.Event()
            await self._idle.wait()

    async def suspend(self, *, flush: bool = True) -> None:
        """Hold new requests until `resume`. With `flush`, what was accepted is complete and durable on return.

        The order is a marker's: requests accepted before are finished, requests after wait (request-based dm).
        When the flush fails the disk is not suspended. Cancelled, it is not suspended either.
        """
        if self.suspended:
            return
        self._holds += 1
        self.suspended = True
        self._update_gate()
        try:
            if flush and not self.missing:
                await self.quiesce()
                if self.cache is not None:
                    await self.cache.barrier()
                elif not self.readonly:
                    await self.flush_backing()
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """Let held requests go."""
        if self.suspended:
            self.suspended = False
            self._holds -= 1
            self._update_gate()

    def _update_gate(self) -> None:
        passing = not self._holds and not self.missing and not self.readonly
        self._fast = self.cache if passing else None
        if not self._holds:
            opened, self._opened = self._opened, trio.Event()
            opened.set()
