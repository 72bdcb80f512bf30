# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: the one place where a request is decided (dm-lc lc_map).

Writing. A line goes to the open record in RAM; that is the acknowledgement. A full record, or a barrier,
seals the record; the flush daemon writes it; a barrier makes it durable. Reading. A run of lines comes
from RAM, from the image, or from the backing; a partly dirty line is merged in memory. Reads write nothing.

Everything without `async` here is atomic: there is no await between looking at the tables and changing
them. `docs/concurrency.md` lists the stretches and what must be looked at again after an await.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.barrier import Barriers
from lcfs.engine.block_store import BlockStore, Buffer
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import ENTRY, DiskEntry, RecordHeader, Superblock, pack_record_header
from lcfs.engine.errors import Failed, LcfsError, Missing, NoSpace
from lcfs.engine.flush import Flusher
from lcfs.engine.geometry import FULL, LINE, LINE_SHIFT, SECTOR
from lcfs.engine.migrate import Migrator
from lcfs.engine.modulator import Modulator
from lcfs.engine.ring import Ring
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER, WRITE, Stats
from lcfs.engine.superblock import SuperblockWriter
from lcfs.engine.tunables import TUNABLES
from lcfs.engine.write_buffer import NR_BUFFERS, BufferPool, WriteBuffer

log = logging.getLogger("lcfs.engine.cache")

_IN_LINE = LINE - 1
_WRITE_MISS = WRITE | FULLSIZE
_WRITE_HIT = WRITE | HIT | FULLSIZE
_WRITE_ON_BUFFER = WRITE | HIT | ON_BUFFER | FULLSIZE
ATTEMPTS = 4
"""Times a line that fails its CRC is looked up and read again before it counts as damaged."""
SMALL_RUN = 4
"""Up to this many lines a loop is quicker than numpy."""


@attrs.define(eq=False)
class _Watch:
    """A line between whose reading and rewriting nobody may write; see `Cache._write_unaligned`."""

    device: CachedDevice
    line: int
    touched: bool = False


class Cache:
    """One cache image and what is attached to it.

    Made by `recover.resume_cache`; `run` starts its daemons, `stop` ends it cleanly.
    """

    def __init__(
        self,
        number: int,
        image: BlockStore,
        superblock: Superblock,
        ring: Ring,
        last_record: RecordHeader | None,
        *,
        nr_buffers: int = NR_BUFFERS,
    ) -> None:
        geometry = superblock.geometry
        self.id = number
        self.image = image
        self.path = image.name
        self.uuid = superblock.uuid
        self.geometry = geometry
        self.ring = ring
        self.states = ring.states
        self.stats = Stats()
        self.tunables = dict(superblock.tunables)
        self.last_flushed_segment_id = ring.segment_id
        self.crc_errors = 0
        """Lines that did not match their CRC when read from the image."""
        self._failure = ""
        self._stuck = ""
        self.disk_table: Callable[[], tuple[DiskEntry, ...]] = lambda: superblock.disks
        """What the superblock is to say of the disks."""
        self._counters = self.stats.counters

        # the open record: its header block, the next free block, the end of its segment (block numbers)
        self._record_start = 0
        self._cursor = 0
        self._limit = 0
        self._base = 0
        self._view = memoryview(b"")
        self._buffer: WriteBuffer | None = None
        self._ram: dict[int, memoryview] = {}
        """Slot -> RAM of the segments that are not completely on the image."""
        self._pool = BufferPool(geometry.segment_bytes, nr_buffers)
        self._watches: list[_Watch] = []
        self._kept_crcs: dict[int, int] = {}
        self._first_block = geometry.first_block
        self._blocks = geometry.blocks_per_segment

        self._generation = superblock.generation
        self._last_position = last_record.position if last_record is not None else 0
        self._last_crc = last_record.crc if last_record is not None else 0
        end = last_record.end if last_record is not None else geometry.position(superblock.tail, 0)
        self._sealed = end
        self._next_tail = ring.tail
        self._room = trio.Event()
        self._flush_lock = trio.Lock()
        self._clean = False

        self.flusher = Flusher(
            image, end, on_written=self._on_written, on_failed=self.fail, on_no_space=self._on_no_space
        )
        self.barriers = Barriers(
            self.flusher,
            end,
            seal=self.seal,
            flush=self.flush_image,
            check=self.check,
            deadline=lambda: self.tunables["barrier_deadline_ms"] / 1000,
        )
        self.superblock = SuperblockWriter(image, superblock, self.flush_image)
        self.migrator = Migrator(
            ring,
            image,
            wait_durable=self.make_durable,
            commit_tail=self._commit_tail,
            copy_forward=self._copy_forward,
            allowed=lambda: bool(self.tunables["allow_migrate"] or self.tunables["force_migrate"]),
            paced=lambda: self.tunables["update_interval"] > 0,
            batch_size=lambda: self.tunables["nr_max_batched_migration"],
            on_stuck=self._on_stuck,
            on_bad_line=self._on_bad_line,
        )
        self.modulator = Modulator(
            self.tunables,
            devices=self.attached_devices,
            has_work=lambda: ring.tail <= ring.last_closed,
            on_change=self.migrator.wake,
            flush=self.flush_current_buffer,
            commit=self.commit_super_block,
            unflushed=lambda: self.appended > self.barriers.durable,
            uncommitted=lambda: self._snapshot() != attrs.evolve(self.superblock.current),
        )

    # What it is and how it is

    @property
    def nr_segments(self) -> int:
        """Segments of the ring."""
        return self.geometry.nr_segments

    @property
    def nr_caches(self) -> int:
        """Nominal capacity in lines."""
        return self.geometry.nr_caches

    @property
    def nr_dirty_caches(self) -> int:
        """Dirty lines of all its disks."""
        return sum(device.nr_dirty_caches for device in self.attached_devices())

    @property
    def last_migrated_segment_id(self) -> int:
        """Highest id of which every line is on its backing, durably known to be."""
        return self.ring.tail - 1

    @property
    def current_segment_id(self) -> int:
        """Id of the newest segment."""
        return self.ring.segment_id

    @property
    def cursor(self) -> int:
        """Number of the line written most lately, counted in lines of the ring as in dm-lc."""
        if self.ring.segment_id == 0:
            return 0
        slot = self.geometry.slot(self.ring.segment_id)
        return slot * self.geometry.lines_per_segment + max(0, self._cursor - self._base - 2)

    @property
    def appended(self) -> int:
        """Log position behind the newest acknowledged line."""
        if self._cursor > self._record_start + 1:
            return self.geometry.position(self.ring.segment_id, self._cursor - self._base)
        return self._sealed

    @property
    def state(self) -> str:
        """`running`, `degraded` or `failed`, with the reason behind it."""
        if self._failure:
            return f"failed {self._failure}"
        if self.flusher.waits_for_space:
            return f"degraded no space left for {self.path}: free some, writing goes on by itself"
        bad = sum(1 for index in self.migrator.bad_lines if self.states.dirty[index])
        if bad:
            return f"degraded {bad} damaged lines on {self.path}; run `lcfs check`"
        return "running"

    @property
    def failed(self) -> bool:
        """Whether a log write or a flush of the image failed: nothing becomes durable any more."""
        return bool(self._failure)

    def attached_devices(self) -> list[CachedDevice]:
        """Its disks, by id."""
        return [device for device in self.ring.devices if device is not None]

    def status_text(self) -> str:
        """dm-lc lc_mgr_status, all sixteen rows (B38)."""
        static = self.states.line.nbytes + self.states.crc.nbytes + 3 * self.geometry.nr_blocks
        static += sum(device.table.index.nbytes for device in self.attached_devices())
        static += NR_BUFFERS * self.geometry.segment_bytes
        static += self.tunables["nr_max_batched_migration"] * self.geometry.lines_per_segment * LINE
        return (
            f"static RAM(approx.): {static} (byte)\n"
            f"allow_migrate: {self.tunables['allow_migrate']}\n"
            f"nr_segments: {self.nr_segments}\n"
            f"last_migrated_segment_id: {self.last_migrated_segment_id}\n"
            f"last_flushed_segment_id: {self.last_flushed_segment_id}\n"
            f"current segment id: {self.current_segment_id}\n"
            f"cursor: {self.cursor}\n"
            "\n"
            "write? hit? on_buffer? fullsize?\n"
        ) + self.stats.text()

    def check(self) -> None:
        """Raises Failed or NoSpace when a barrier cannot be served."""
        if self._failure:
            raise Failed(f"cache {self.id} has failed: {self._failure}; unmount, repair the device, mount again")
        if self.flusher.waits_for_space:
            raise NoSpace(f"no space left for {self.path}; free some, writing goes on by itself")

    # Writing

    def write_nowait(self, device: CachedDevice, offset: int, data: Buffer) -> int:
        """Take a write that needs no waiting; bytes taken, or -1. The range must lie on the disk.

        The common case, one whole line, is decided here without a call.
        """
        length = len(data)
        if offset & _IN_LINE:
            return -1
        if length != LINE:
            if length & _IN_LINE or not length:
                return -1
            count = length >> LINE_SHIFT
            if count > self._limit - self._cursor and not (
                self._cursor == self._limit and count < self._blocks and self._roll()
            ):
                return -1
            self._put_run(device, offset >> LINE_SHIFT, count, memoryview(data))
            return length
        if self._watches:
            self._touch(device, offset >> LINE_SHIFT, 1)
        line = offset >> LINE_SHIFT
        table = device.table.index
        states = self.states
        index = table[line]
        if self._record_start < index < self._cursor:
            start = (index - self._base) << LINE_SHIFT
            self._view[start : start + LINE] = data
            states.dirty[index] = FULL
            states.valid[index] = FULL
            self._counters[_WRITE_ON_BUFFER] += 1
            return LINE
        new = self._cursor
        if new == self._limit:
            if not self._roll():
                return -1
            new = self._cursor
            index = table[line]
        start = (new - self._base) << LINE_SHIFT
        self._view[start : start + LINE] = data
        if index:
            self._counters[_WRITE_HIT] += 1
            if states.dirty[index]:
                states.dirty[index] = 0
            else:
                device.nr_dirty_caches += 1
        else:
            self._counters[_WRITE_MISS] += 1
            device.nr_dirty_caches += 1
        states.line[new] = line
        states.device[new] = device.id
        states.dirty[new] = FULL
        states.valid[new] = FULL
        table[line] = new
        self._cursor = new + 1
        return LINE

    def _put_run(self, device: CachedDevice, line: int, count: int, data: memoryview) -> None:
        """Whole lines, neighbours, for which the open segment has room."""
        if self._watches:
            self._touch(device, line, count)
        indices = device.table.array[line : line + count]
        on_buffer = (indices > self._record_start) & (indices < self._cursor)
        if count <= SMALL_RUN or on_buffer.any():
            for at in range(count):
                part = data[at << LINE_SHIFT : (at + 1) << LINE_SHIFT]
                taken = self.write_nowait(device, (line + at) << LINE_SHIFT, part)
                assert taken == LINE, "the caller made sure that there is room"
            return
        new, states = self._cursor, self.states
        start = (new - self._base) << LINE_SHIFT
        self._view[start : start + (count << LINE_SHIFT)] = data
        old = indices[indices != 0]
        was_dirty = old[states.dirty_array[old] != 0]
        states.dirty_array[was_dirty] = 0
        device.nr_dirty_caches += count - len(was_dirty)
        self._counters[_WRITE_HIT] += len(old)
        self._counters[_WRITE_MISS] += count - len(old)
        states.line_array[new : new + count] = np.arange(line, line + count)
        states.device_array[new : new + count] = device.id
        states.dirty_array[new : new + count] = FULL
        states.valid_array[new : new + count] = FULL
        indices[:] = np.arange(new, new + count)
        self._cursor = new + count

    async def write(self, device: CachedDevice, offset: int, data: Buffer) -> None:
        """Take any write on the disk, waiting for room and for old sectors of the image where needed.

        Raises Failed (cache failed, or an old sector is damaged) and NoSpace (no room can be made).
        """
        view = memoryview(data)
        while view:
            line, start = offset >> LINE_SHIFT, offset & _IN_LINE
            if start == 0 and len(view) >= LINE:
                while self._cursor == self._limit and not self._roll():
                    await self._wait_for_room()
                count = min(len(view) >> LINE_SHIFT, self._limit - self._cursor)
                self._put_run(device, line, count, view[: count << LINE_SHIFT])
                taken = count << LINE_SHIFT
            else:
                taken = min(LINE - start, len(view))
                if start % SECTOR or taken % SECTOR:
                    await self._write_unaligned(device, line, start, view[:taken])
                else:
                    await self._write_sectors(device, line, start, view[:taken])
            offset += taken
            view = view[taken:]

    async def _write_sectors(self, device: CachedDevice, line: int, start: int, data: memoryview) -> None:
        """Whole sectors of one line."""
        old: tuple[int, int, memoryview] | None = None
        while not self._put_sectors(device, line, start, data, old):
            old = await self._prepare(device, line, start, data)

    async def _prepare(
        self, device: CachedDevice, line: int, start: int, data: memoryview
    ) -> tuple[int, int, memoryview] | None:
        """Wait for what `_put_sectors` lacks: room, or the old sectors (index, CRC and content of the line)."""
        if self._cursor == self._limit and not self._roll():
            await self._wait_for_room()
            return None
        index = device.table.index[line]
        if not index or not self.states.dirty[index]:
            return None
        for _ in range(ATTEMPTS):
            crc = self.states.crc[index]
            scratch = memoryview(bytearray(LINE))
            await self._read_image(index, scratch)
            if crc32c(scratch) == crc:
                return index, crc, scratch
            if device.table.index[line] != index or self.states.crc[index] != crc:
                return None
        self.crc_errors += 1
        log.error("line %d of disk %d is damaged on %s", line, device.id, self.path)
        raise Failed(f"line {line} of disk {device.id} is damaged on {self.path}; overwrite it as a whole to mend it")

    def _put_sectors(
        self, device: CachedDevice, line: int, start: int, data: memoryview, old: tuple[int, int, memoryview] | None
    ) -> bool:
        """Put whole sectors of one line in the open record; False when `_prepare` has to wait for something first.

        A line that is cached elsewhere takes its old dirty sectors along (B08, B33).
        """
        states, table = self.states, device.table.index
        first, count = start // SECTOR, len(data) // SECTOR
        mask = ((1 << count) - 1) << first
        kind = WRITE | (FULLSIZE if mask == FULL else 0)
        index = table[line]
        if self._record_start < index < self._cursor:
            if self._watches:
                self._touch(device, line, 1)
            at = (index - self._base) << LINE_SHIFT
            self._view[at + start : at + start + len(data)] = data
            states.dirty[index] |= mask
            states.valid[index] |= mask
            self._counters[kind | HIT | ON_BUFFER] += 1
            return True
        if self._cursor == self._limit:
            if not self._roll():
                return False
            index = table[line]
        carried = states.dirty[index] & ~mask & FULL if index else 0
        source: memoryview | None = None
        if carried:
            source = self._in_ram(index)
            if source is None and old is not None and old[0] == index and old[1] == states.crc[index]:
                source = old[2]
            if source is None:
                source = self._from_page_cache(index)
            if source is None:
                return False
        if self._watches:
            self._touch(device, line, 1)
        new = self._cursor
        at = (new - self._base) << LINE_SHIFT
        content = self._view[at : at + LINE]
        content[:] = bytes(LINE)
        if source is not None:
            for sector in range(LINE // SECTOR):
                if carried >> sector & 1:
                    content[sector * SECTOR : (sector + 1) * SECTOR] = source[sector * SECTOR : (sector + 1) * SECTOR]
        content[start : start + len(data)] = data
        if index and states.dirty[index]:
            states.dirty[index] = 0
        else:
            device.nr_dirty_caches += 1
        self._counters[kind | (HIT if index else 0)] += 1
        states.line[new] = line
        states.device[new] = device.id
        states.dirty[new] = mask | carried
        states.valid[new] = mask | carried
        table[line] = new
        self._cursor = new + 1
        return True

    async def _write_unaligned(self, device: CachedDevice, line: int, start: int, data: memoryview) -> None:
        """Parts of sectors of one line: read them, merge, write whole sectors.

        Between reading and writing nobody may write the line; whoever does marks the watch, and this begins again.
        """
        first = start - start % SECTOR
        last = -(-(start + len(data)) // SECTOR) * SECTOR
        merged = bytearray(last - first)
        watch = _Watch(device, line)
        self._watches.append(watch)
        old: tuple[int, int, memoryview] | None = None
        try:
            while True:
                watch.touched = False
                merged[:] = await self.read(device, (line << LINE_SHIFT) + first, last - first, count=False)
                merged[start - first : start - first + len(data)] = data
                while not watch.touched:
                    if self._put_sectors(device, line, first, memoryview(merged), old):
                        return
                    old = await self._prepare(device, line, first, memoryview(merged))
        finally:
            self._watches.remove(watch)

    def _touch(self, device: CachedDevice, line: int, count: int) -> None:
        for watch in self._watches:
            if watch.device is device and line <= watch.line < line + count:
                watch.touched = True

    async def _wait_for_room(self) -> None:
        """Return when a segment or a buffer may have become free (dm-lc wait_for_migration, without its polls).

        Raises Failed or NoSpace where waiting would not end.
        """
        if self._failure:
            self.check()
        if self._stuck:
            reason, self._stuck = self._stuck, ""
            raise NoSpace(reason)
        if self.flusher.waits_for_space and not self._pool.available:
            self.check()
        room = self._room
        self.migrator.reserving += 1
        self.migrator.wake()
        try:
            await room.wait()
        finally:
            self.migrator.reserving -= 1

    def _open_room(self) -> None:
        room, self._room = self._room, trio.Event()
        room.set()

    # The open record

    def _roll(self, *, reserve: int | None = None) -> bool:
        """Close the open segment, if any, and open the next; False when its slot or a buffer is not free.

        One segment is kept back while a disk is stuck: its lines are copied forward into it.
        """
        ring = self.ring
        if reserve is None:
            reserve = 1 if self.nr_segments > 2 and self._is_stuck() else 0
        if ring.nr_free <= reserve:
            return False
        buffer = self._pool.take_nowait()
        if buffer is None:
            return False
        self.close_segment()
        segment_id = ring.segment_id + 1
        ring.forget_segment(segment_id)
        if self.migrator.bad_lines:
            self.migrator.bad_lines = {index for index in self.migrator.bad_lines if self.states.dirty[index]}
        ring.segment_id = segment_id
        ring.closed = False
        buffer.segment_id = segment_id
        buffer.slot = self.geometry.slot(segment_id)
        self._buffer = buffer
        self._view = buffer.view
        self._ram[buffer.slot] = buffer.view
        self._base = self.geometry.start_block(segment_id)
        self._record_start = self._base
        self._cursor = self._base + 1
        self._limit = self._base + self._blocks
        if ring.nr_free * 8 < self.nr_segments:
            self.migrator.wake()
        return True

    def _is_stuck(self) -> bool:
        return any(device.store is None or device.fault for device in self.attached_devices())

    def seal(self) -> int:
        """Close the open record and queue it for the image; the log position behind it.

        The header describes the lines as they are now, so no line of a sealed record changes any more.
        """
        first, end = self._record_start, self._cursor
        count = end - first - 1
        buffer = self._buffer
        if count < 1 or buffer is None:
            return self._sealed
        states, view = self.states, self._view
        start = (first - self._base) << LINE_SHIFT
        stop = (end - self._base) << LINE_SHIFT
        crcs = [crc32c(view[at : at + LINE]) for at in range(start + LINE, stop, LINE)]
        for index, crc in self._kept_crcs.items():
            crcs[index - first - 1] = crc
        self._kept_crcs.clear()
        states.crc_array[first + 1 : end] = crcs
        entries = np.zeros(count, ENTRY)
        entries["line"] = states.line_array[first + 1 : end]
        entries["device_id"] = states.device_array[first + 1 : end]
        entries["dirty"] = states.dirty_array[first + 1 : end]
        entries["crc"] = states.crc_array[first + 1 : end]
        segment_id = self.ring.segment_id
        position = self.geometry.position(segment_id, first - self._base)
        header = RecordHeader(
            uuid=self.uuid,
            generation=self._generation,
            position=position,
            previous=self._last_position,
            previous_crc=self._last_crc,
            durable=self.barriers.durable,
            tail=self.ring.tail,
            entries=entries,
        )
        self._last_crc = pack_record_header(header, view[start : start + LINE])
        self._last_position = position
        self._sealed = header.end
        self.flusher.put(buffer, start, stop, first << LINE_SHIFT, header.end)
        if end + 1 < self._limit:
            self._record_start, self._cursor = end, end + 1
        else:
            self._record_start = self._cursor = self._limit
            self._close_buffer(buffer)
        return self._sealed

    def close_segment(self) -> None:
        """Seal the open record and take no more lines into this segment."""
        self.seal()
        if self._buffer is not None:
            self._record_start = self._cursor = self._limit
            self._close_buffer(self._buffer)

    def _close_buffer(self, buffer: WriteBuffer) -> None:
        buffer.closed = True
        self.ring.closed = True
        self._buffer = None
        if buffer.pending == 0:
            self._release(buffer)
        self.migrator.wake()
        self.modulator.wake()

    def _on_written(self, buffer: WriteBuffer, end_position: int) -> None:
        self.last_flushed_segment_id = max(self.last_flushed_segment_id, buffer.segment_id)
        if buffer.closed and buffer.pending == 0:
            self._release(buffer)

    def _release(self, buffer: WriteBuffer) -> None:
        del self._ram[buffer.slot]
        self._pool.put(buffer)
        self._open_room()

    def _copy_forward(self, device: CachedDevice, index: int, data: memoryview) -> bool:
        """Move a dirty line to the open record, as it is; False without room. See Migrator._make_way."""
        if self._cursor == self._limit and not self._roll(reserve=0):
            return False
        states, new = self.states, self._cursor
        at = (new - self._base) << LINE_SHIFT
        self._view[at : at + LINE] = data
        if index in self.migrator.bad_lines:
            # a damaged line keeps its CRC, so that it is never taken for a good one; its record is sealed at
            # once, so that nobody overwrites it in place
            self._kept_crcs[new] = states.crc[index]
            self.migrator.bad_lines.remove(index)
            self.migrator.bad_lines.add(new)
        line = states.line[index]
        states.line[new] = line
        states.device[new] = device.id
        states.dirty[new] = states.dirty[index]
        states.valid[new] = states.dirty[index]
        states.dirty[index] = 0
        device.table.index[line] = new
        self._cursor = new + 1
        if self._kept_crcs:
            self.seal()
        return True

    # Reading

    def read_nowait(self, device: CachedDevice, offset: int, length: int) -> Buffer | None:
        """Serve a read from RAM or the page cache; None when that would block. The range must lie on the disk.

        What is returned is valid until the next await.
        """
        if length == LINE and not offset & _IN_LINE:
            line = offset >> LINE_SHIFT
            index = device.table.index[line]
            if self._record_start < index < self._cursor and self.states.valid[index] == FULL:
                self._counters[HIT | ON_BUFFER | FULLSIZE] += 1
                start = (index - self._base) << LINE_SHIFT
                return self._view[start : start + LINE]
            if index and self.states.valid[index] == FULL:
                content = self._in_ram(index)
                if content is None:
                    content = self._from_page_cache(index)
                    if content is None:
                        return None
                self._counters[HIT | FULLSIZE] += 1
                return content
        first, last = offset >> LINE_SHIFT, -(-(offset + length) >> LINE_SHIFT)
        out = bytearray((last - first) << LINE_SHIFT)
        view = memoryview(out)
        line = first
        while line < last:
            index, count = self._run_at(device, line, last - line)
            at = (line - first) << LINE_SHIFT
            if not self._fill_nowait(device, line, index, count, view[at : at + (count << LINE_SHIFT)]):
                return None
            line += count
        self._count_read(device, offset, length)
        return view[offset - (first << LINE_SHIFT) :][:length]

    async def read(self, device: CachedDevice, offset: int, length: int, *, count: bool = True) -> Buffer:
        """Serve any read on the disk. Raises Failed (EIO) for a damaged line or a backing that cannot be read."""
        if count:
            self._count_read(device, offset, length)
        first, last = offset >> LINE_SHIFT, -(-(offset + length) >> LINE_SHIFT)
        view = memoryview(bytearray((last - first) << LINE_SHIFT))
        line = first
        suspect: tuple[int, int, int] | None = None
        failures = 0
        while line < last:
            # looked up anew after each wait: lines move between RAM, image and backing all the time
            index, nr = self._run_at(device, line, last - line)
            at = (line - first) << LINE_SHIFT
            part = view[at : at + (nr << LINE_SHIFT)]
            if not self._fill_nowait(device, line, index, nr, part):
                good = await self._fill(device, line, index, nr, part)
                if good < nr:
                    now = device.table.index[line + good]
                    failed = (line + good, now, self.states.crc[now])
                    failures = failures + 1 if failed == suspect else 1
                    suspect = failed
                    if failures >= ATTEMPTS:
                        self._give_up_line(device, line + good)
                nr = good
            line += nr
        return view[offset - (first << LINE_SHIFT) :][:length]

    def _run_at(self, device: CachedDevice, line: int, limit: int) -> tuple[int, int]:
        """Lines from `line` on that are served alike: their first cache index (0: not cached) and how many.

        A run on the image lies in one record: the header between two records breaks the indices.
        """
        table = device.table.index
        index = table[line]
        if limit <= SMALL_RUN:
            count = 1
            step = 1 if index else 0
            while count < limit and table[line + count] == index + count * step:
                count += 1
        else:
            indices = device.table.array[line : line + limit]
            wanted = index + np.arange(limit) if index else 0
            differs = indices != wanted
            count = int(differs.argmax()) if differs.any() else limit
        if index:
            valid = self.states.valid
            if valid[index] != FULL:
                return index, 1
            if count > 1:
                partial = self.states.valid_array[index : index + count] != FULL
                if partial.any():
                    count = int(partial.argmax())
        return index, count

    def _fill_nowait(self, device: CachedDevice, line: int, index: int, count: int, out: memoryview) -> bool:
        """Fill `out` with a run of `_run_at` without waiting; False when that is not possible."""
        if not index:
            store = device.store
            start = line << LINE_SHIFT
            length = min(len(out), device.size - start)
            return store is not None and store.readinto_nowait(start, out[:length])
        slot = (index - self._first_block) // self._blocks
        ram = self._ram.get(slot)
        if self.states.valid[index] == FULL:
            if ram is not None:
                start = ((index - self._first_block) % self._blocks) << LINE_SHIFT
                out[:] = ram[start : start + len(out)]
                return True
            return self.image.readinto_nowait(index << LINE_SHIFT, out) and self._nr_good(index, count, out) == count
        content = self._in_ram(index) or self._from_page_cache(index)
        if content is None or not self._fill_nowait(device, line, 0, 1, out):
            return False
        _overlay(out, content, self.states.valid[index])
        return True

    async def _fill(self, device: CachedDevice, line: int, index: int, count: int, out: memoryview) -> int:
        """Fill `out` with a run, waiting; how many lines from its start are good.

        A line that fails its CRC may have moved while this waited, so the caller looks it up again.
        """
        if not index:
            await self._read_backing(device, line, out)
            return count
        states = self.states
        if states.valid[index] == FULL:
            crcs = states.crc[index : index + count].tolist()
            await self._read_image(index, out)
            for at in range(count):
                if crc32c(out[at << LINE_SHIFT : (at + 1) << LINE_SHIFT]) != crcs[at]:
                    return at
            return count
        mask, crc = states.valid[index], states.crc[index]
        content = self._in_ram(index)
        if content is None:
            content = memoryview(bytearray(LINE))
            await self._read_image(index, content)
            if crc32c(content) != crc:
                return 0
        else:
            content = memoryview(bytes(content))
        await self._read_backing(device, line, out)
        _overlay(out, content, mask)
        return 1

    def _give_up_line(self, device: CachedDevice, line: int) -> None:
        """A line fails its CRC again and again: drop it when clean, so that the backing serves it; else EIO (R5)."""
        index = device.table.index[line]
        if not index:
            return
        self.crc_errors += 1
        if self.states.dirty[index]:
            log.error("line %d of disk %d is damaged on %s", line, device.id, self.path)
            raise Failed(f"line {line} of disk {device.id} is damaged on {self.path}; its newest data is lost")
        log.warning("line %d of disk %d is damaged on %s; it is clean, the backing serves it", line, device.id, self.path)
        device.table.index[line] = 0
        self.states.valid[index] = 0

    async def _read_image(self, index: int, out: memoryview) -> None:
        try:
            await self.image.readinto(index << LINE_SHIFT, out)
        except OSError as exc:
            log.warning("%s cannot be read at block %d: %s", self.path, index, exc)
            # not filled: fails its CRC, and the caller goes on as with a damaged line
            out[:] = bytes(len(out))

    async def _read_backing(self, device: CachedDevice, line: int, out: memoryview) -> None:
        store = device.store
        if store is None:
            raise Missing(f"the backing of disk {device.id} is missing; bring it back and mount again")
        start = line << LINE_SHIFT
        length = min(len(out), device.size - start)
        try:
            await store.readinto(start, out[:length])
        except OSError as exc:
            raise Failed(f"{store.name} cannot be read: {exc.strerror or exc}", errno=exc.errno) from exc

    def _in_ram(self, index: int) -> memoryview | None:
        """The line at `index` in its write buffer; None when it is only on the image."""
        slot, block = divmod(index - self._first_block, self._blocks)
        ram = self._ram.get(slot)
        return None if ram is None else ram[block << LINE_SHIFT : (block + 1) << LINE_SHIFT]

    def _from_page_cache(self, index: int) -> memoryview | None:
        """The line at `index` from the image, checked, if that needs no waiting."""
        content = memoryview(bytearray(LINE))
        if self.image.readinto_nowait(index << LINE_SHIFT, content) and crc32c(content) == self.states.crc[index]:
            return content
        return None

    def _nr_good(self, index: int, count: int, out: memoryview) -> int:
        """How many lines of `out` match their CRCs, from the first on."""
        crcs = self.states.crc
        for at in range(count):
            if crc32c(out[at << LINE_SHIFT : (at + 1) << LINE_SHIFT]) != crcs[index + at]:
                return at
        return count

    def _count_read(self, device: CachedDevice, offset: int, length: int) -> None:
        """One count per 4-KiB piece, by where its line is."""
        end = offset + length
        counters, table = self._counters, device.table.index
        first, last = offset >> LINE_SHIFT, -(-end >> LINE_SHIFT)
        full_first = first if not offset & _IN_LINE else first + 1
        full_last = last if not end & _IN_LINE else last - 1
        if full_last > full_first:
            indices = device.table.array[full_first:full_last]
            hits = int(np.count_nonzero(indices))
            on_buffer = int(np.count_nonzero((indices > self._record_start) & (indices < self._cursor)))
            counters[FULLSIZE] += full_last - full_first - hits
            counters[HIT | FULLSIZE] += hits - on_buffer
            counters[HIT | ON_BUFFER | FULLSIZE] += on_buffer
        parts = {line for line in (first, last - 1) if not full_first <= line < full_last}
        for line in parts:
            index = table[line]
            on = ON_BUFFER if self._record_start < index < self._cursor else 0
            counters[(HIT if index else 0) | on] += 1

    # Durability

    async def barrier(self) -> None:
        """Everything acknowledged before this call is durable when it returns. Raises Failed, NoSpace."""
        await self.barriers.wait_durable(self.appended)

    async def make_durable(self, position: int) -> None:
        """The log is durable up to `position`, or to its end where that comes first."""
        await self.barriers.wait_durable(min(position, self.appended))

    async def flush_image(self) -> None:
        """One flush of the image, never two at a time (see barrier.py). Raises Failed and latches (R5, B20)."""
        async with self._flush_lock:
            if self._failure:
                self.check()
            try:
                await self.image.flush()
            except OSError as exc:
                self.fail(f"{self.path} could not be flushed: {exc.strerror or exc}")
                self.check()

    def fail(self, reason: str) -> None:
        """From now on nothing becomes durable: barriers fail, what is in RAM can be read, until remounted."""
        if self._failure:
            return
        self._failure = reason
        log.error("cache %d has failed: %s", self.id, reason)
        self.flusher.stop()
        self.barriers.release_all()
        self._open_room()

    def _on_no_space(self, waits: bool) -> None:
        if waits:
            log.warning("no space left for %s; barriers fail until there is room", self.path)
        else:
            log.warning("there is space again for %s", self.path)
        self._open_room()

    def _on_stuck(self, reason: str) -> None:
        self._stuck = reason
        self._open_room()

    def _on_bad_line(self, device: CachedDevice, index: int) -> None:
        self.crc_errors += 1
        log.error("line %d of disk %d is damaged on %s", self.states.line[index], device.id, self.path)

    # Management

    def _snapshot(self) -> Superblock:
        current = self.superblock.current
        disks = self.disk_table()
        stored = dict(self.tunables)
        if stored["update_interval"]:
            stored["allow_migrate"] = TUNABLES["allow_migrate"].default
        return attrs.evolve(
            current,
            cache_id=self.id,
            tail=max(self.ring.tail, self._next_tail),
            head=max(current.head, self.barriers.durable),
            clean=self._clean,
            tunables=stored,
            disks=disks,
            had_disk=current.had_disk or bool(disks),
        )

    async def commit(self, *, both: bool = False) -> None:
        """Make the superblock as it now should be durable. Raises Failed."""
        try:
            await self.superblock.commit(self._snapshot, both=both)
        except OSError as exc:
            self.fail(f"the superblock could not be written to {self.path}: {exc.strerror or exc}")
            self.check()

    async def _commit_tail(self, tail: int) -> None:
        """Give up the segments before `tail`: first durably, then in memory."""
        self._next_tail = max(self._next_tail, tail)
        await self.commit()
        self.ring.tail = max(self.ring.tail, tail)
        self._open_room()

    async def begin(self) -> None:
        """Begin the generation that recovery prepared. No request is taken before. Raises Failed.

        The superblock will say that the log is durable up to its end, so a flush makes that true first.
        """
        await self.flush_image()
        await self.commit(both=True)

    async def set_tunable(self, name: str, value: int) -> None:
        """Change a tunable; durable when this returns. Raises Invalid outside its range."""
        self.tunables[name] = TUNABLES[name].check(value)
        self.migrator.wake()
        self.modulator.wake()
        await self.commit()

    async def flush_current_buffer(self) -> None:
        """RAM to the image, durably; nothing to do when nothing is dirty there (dm-lc flush_current_buffer_sync, B18)."""
        await self.barrier()

    async def commit_super_block(self) -> None:
        """Write the superblock (dm-lc commit_super_block)."""
        await self.commit()

    async def drain(self, device: CachedDevice) -> None:
        """Write back all lines of a disk that are dirty now. Raises Missing, Failed."""
        await self.barrier()
        await self.migrator.drain(device, self.barriers.durable)

    async def drop_caches(self) -> None:
        """Flush, migrate every dirty line, close the open segment.

        Raises Missing (ENODEV) or Failed when a disk's lines cannot be written back, after all others are.
        """
        await self.barrier()
        self.close_segment()
        await self.barrier()
        position = self.barriers.durable
        errors: list[LcfsError] = []

        async def drain_one(device: CachedDevice) -> None:
            try:
                await self.migrator.drain(device, position)
            except LcfsError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for device in self.attached_devices():
                if device.nr_dirty_caches:
                    nursery.start_soon(drain_one, device)
        await self.migrator.advance_tail(self.ring.last_closed)
        self.check()
        if errors:
            raise min(errors, key=lambda exc: isinstance(exc, Missing))

    def attach(self, device: CachedDevice) -> None:
        """Lines of `device` are cached from now on."""
        assert self.ring.devices[device.id] is None, device.id
        self.ring.devices[device.id] = device

    def release(self, device: CachedDevice) -> None:
        """Forget a disk and all its lines."""
        self.ring.forget_device(device.id)
        self.ring.devices[device.id] = None
        device.nr_dirty_caches = 0
        self.migrator.wake()

    async def run(self) -> None:
        """The daemons: flush, barriers, migration, modulation. Ends only when cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flusher.run)
            nursery.start_soon(self.barriers.run)
            nursery.start_soon(self.migrator.run)
            nursery.start_soon(self.modulator.run)

    async def stop(self) -> None:
        """RAM to the image, then a superblock that says the image is clean. The daemons must still run.

        Raises Failed or NoSpace when something acknowledged could not be made durable.
        """
        await self.barrier()
        self._clean = True
        await self.commit(both=True)


def _overlay(out: memoryview, content: memoryview, mask: int) -> None:
    """Put the sectors of `mask` from `content` over `out`."""
    for sector in range(LINE // SECTOR):
        if mask >> sector & 1:
            out[sector * SECTOR : (sector + 1) * SECTOR] = content[sector * SECTOR : (sector + 1) * SECTOR]
