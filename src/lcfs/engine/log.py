# SPDX-License-Identifier: GPL-2.0-or-later
"""The log's head: the open record in RAM, and how it becomes durable on the image.

Lines are put behind `cursor` in the write buffer of the open segment. `seal` closes the open record and
queues it for the image, `roll` goes on to the next segment, a barrier waits until the log is durable.

Everything without `async` is atomic. The fields of the open record are the hot path's: reading and writing
subscript them directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.barrier import Barriers
from lcfs.engine.block_store import BlockStore
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import ENTRY, KNOWN_BAD, RecordHeader, Superblock, pack_record_header
from lcfs.engine.errors import Failed, NoSpace
from lcfs.engine.flush import Flusher
from lcfs.engine.geometry import LINE, LINE_SHIFT
from lcfs.engine.ring import Ring
from lcfs.engine.stats import Stats
from lcfs.engine.write_buffer import NR_BUFFERS, BufferPool, WriteBuffer

log = logging.getLogger("lcfs.engine.log")

GREEDY_SHARE = 8
"""Writers of a disk that struggles, or that has 7/8 of the cache for its dirty lines, get none of the last 1/8 of the ring."""
UNSYNCED_SEGMENTS = 32
"""Log that was written and not flushed is flushed when it is longer than this. So behind a hole in the durable log
there is, within log_reader.LOOKAHEAD_SEGMENTS, a record that says so."""
MOST_UNSYNCED = UNSYNCED_SEGMENTS + NR_BUFFERS
"""Writers wait for that flush when this many segments depend on it: those in RAM never make it more."""
HIGH_WATERMARK = 8
"""Migration does not wait for a full ring: where it may, it begins when less than 1/8 is free, whatever the load ..."""
LOW_WATERMARK = 4
"""... and goes on until 1/4 is."""


class Log:
    """The writing end of the log of one cache."""

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
        self.tunables = dict(superblock.tunables)
        self.stats = Stats()
        self._counters = self.stats.counters
        self.last_flushed_segment_id = ring.segment_id
        self.waiting: list[CachedDevice] = []
        """Disks whose writers wait for a free segment or buffer, once per writer (dm-lc reserving_segment_id)."""
        self.on_segment_closed: Callable[[], None] = lambda: None
        self.on_reserving: Callable[[], None] = lambda: None
        self.nr_barriers = 0
        """How often something acknowledged was to be made durable."""
        self._failure = ""
        self._stuck = ""

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
        self._kept_crcs: dict[int, int] = {}
        self._entries = np.zeros(geometry.lines_per_segment, ENTRY)
        self._first_block = geometry.first_block
        self._blocks = geometry.blocks_per_segment

        self._generation = superblock.generation
        self._last_position = last_record.position if last_record is not None else 0
        self._last_crc = last_record.crc if last_record is not None else 0
        self._sealed = last_record.end if last_record is not None else geometry.position(superblock.tail, 0)
        self._room = trio.Event()
        self._flush_lock = trio.Lock()
        self.flusher = Flusher(
            image,
            self._sealed,
            on_written=self._on_written,
            on_failed=self.fail,
            on_no_space=self._on_no_space,
            flush_lock=self._flush_lock,
        )
        self.barriers = Barriers(
            self.flusher,
            self._sealed,
            seal=self.seal,
            flush=self.flush_image,
            check=self.check,
            deadline=lambda: self.tunables["barrier_deadline_ms"] / 1000,
            on_durable=self._open_room,
        )

    @property
    def appended(self) -> int:
        """Log position behind the newest acknowledged line."""
        if self._cursor > self._record_start + 1:
            return self.geometry.position(self.ring.segment_id, self._cursor - self._base)
        return self._sealed

    @property
    def durable(self) -> int:
        """Log position before which everything is durable. Recovery never ends before it, and every record that
        takes a line from now on begins at or behind it."""
        return self.barriers.durable

    @property
    def nr_ram_segments(self) -> int:
        """Segments that are not completely on the image."""
        return len(self._ram)

    @property
    def failed(self) -> bool:
        """Whether a log write or a flush of the image failed: nothing becomes durable any more."""
        return bool(self._failure)

    # The open record

    def roll(self, device: CachedDevice | None) -> bool:
        """Close the open segment, if any, and open the next; False when its slot or a buffer is not free.

        Where disks share the cache, one segment is kept back to copy lines forward (`device` None), and the last part
        of the ring is for writers of disks that keep up: one bad disk does not fill the cache for all (R6).
        """
        if self._buffer is not None and self._cursor == self._limit:
            # closed before asking for room: in a ring of one segment it is what has to be migrated to make room
            self.close_segment()
        ring = self.ring
        if not self.has_room(device) or ring.segment_id - self.geometry.segment_of(self.durable) >= MOST_UNSYNCED:
            return False
        buffer = self._pool.take_nowait()
        if buffer is None:
            return False
        self.close_segment()
        segment_id = ring.segment_id + 1
        ring.forget_segment(segment_id)
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
        if ring.nr_free * HIGH_WATERMARK < self.geometry.nr_segments:
            self.on_reserving()
        return True

    def has_room(self, device: CachedDevice | None) -> bool:
        """Whether the ring has a segment for a writer of `device`; see `roll`."""
        nr_segments, nr_free = self.geometry.nr_segments, self.ring.nr_free
        if device is None or nr_segments <= 2:
            return nr_free > 0
        # in a small ring less than that, so that what could not be written back can still be put together
        share = min(self.geometry.nr_caches * (GREEDY_SHARE - 1) // GREEDY_SHARE, (nr_segments - 4) * (self._blocks - 2))
        if device.struggling or (device.nr_dirty_caches > share > 0 and len(self.ring.attached()) > 1):
            # what it has in the rest must fit the ring when it is copied together (Migrator._make_way)
            together = 3 + nr_segments // (self._blocks - 1) if nr_segments > 5 else 2
            return nr_free > max(together, nr_segments // GREEDY_SHARE)
        # the last segment goes to a single disk only when the oldest was found good: rot that were met in a full ring
        # could be moved nowhere, and the ring would stand still
        alone = len(self.ring.attached()) == 1 and not self.ring.bad_lines and self.ring.checked_tail == self.ring.tail
        return nr_free > (0 if alone else 1)

    @property
    def starved(self) -> bool:
        """Whether somebody waits for a segment of the ring (and not for a buffer, or for a flush)."""
        return any(not self.has_room(device) for device in self.waiting)

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
        states.crc_array[first + 1 : end] = crcs
        entries = self._entries[:count]
        entries["line"] = states.line_array[first + 1 : end]
        entries["device_id"] = states.device_array[first + 1 : end]
        entries["dirty"] = states.dirty_array[first + 1 : end]
        entries["crc"] = states.crc_array[first + 1 : end]
        entries["line_high"] = 0
        for index in self._kept_crcs:
            entries["line_high"][index - first - 1] = KNOWN_BAD
        self._kept_crcs.clear()
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
        """Seal the open record and take no more lines into this segment.

        A segment without a record stays open: the log must not have a gap.
        """
        self.seal()
        if self._buffer is not None and self._record_start != self._base:
            self._record_start = self._cursor = self._limit
            self._close_buffer(self._buffer)

    def _close_buffer(self, buffer: WriteBuffer) -> None:
        buffer.closed = True
        self.ring.closed = True
        self._buffer = None
        if buffer.pending == 0:
            self._release(buffer)
        self.on_segment_closed()

    def _on_written(self, buffer: WriteBuffer, end_position: int) -> None:
        self.last_flushed_segment_id = max(self.last_flushed_segment_id, buffer.segment_id)
        if buffer.closed and buffer.pending == 0:
            self._release(buffer)
        if end_position - self.durable > UNSYNCED_SEGMENTS * self._blocks:
            self.barriers.request(end_position)

    def _release(self, buffer: WriteBuffer) -> None:
        del self._ram[buffer.slot]
        self._pool.put(buffer)
        self._open_room()

    def copy_forward(self, device: CachedDevice, index: int, data: memoryview) -> bool:
        """Move a dirty line to the open record, as it is; False without room. See Migrator._make_way."""
        if self._cursor == self._limit and not self.roll(None):
            return False
        states, new = self.states, self._cursor
        at = (new - self._base) << LINE_SHIFT
        self._view[at : at + LINE] = data
        if index in self.ring.bad_lines:
            # a damaged line keeps its CRC, so that it is never taken for a good one; see `seal_copies`
            self._kept_crcs[new] = states.crc[index]
            self.ring.bad_lines.remove(index)
            self.ring.bad_lines.add(new)
        line = states.line[index]
        states.line[new] = line
        states.device[new] = device.id
        states.dirty[new] = states.dirty[index]
        states.valid[new] = states.dirty[index]
        states.dirty[index] = 0
        device.table.index[line] = new
        self._cursor = new + 1
        return True

    def seal_copies(self) -> None:
        """Seal the record that lines were copied to, if damaged ones are among them: nobody may overwrite them in place.

        To be called in the same stretch as `copy_forward`, without an await between.
        """
        if self._kept_crcs:
            self.seal()

    def _in_ram(self, index: int) -> memoryview | None:
        """The line at `index` in its write buffer; None when it is only on the image, or known to be damaged."""
        if index in self.ring.bad_lines:
            return None
        slot, block = divmod(index - self._first_block, self._blocks)
        ram = self._ram.get(slot)
        return None if ram is None else ram[block << LINE_SHIFT : (block + 1) << LINE_SHIFT]

    # Room

    async def _wait_for_room(self, device: CachedDevice) -> None:
        """Return when a segment or a buffer may have become free (dm-lc wait_for_migration, without its polls).

        Raises Failed or NoSpace where waiting would not end.
        """
        if self._failure:
            self.check()
        if device.given_up and not self.has_room(device):
            raise Failed(f"disk {device.id} is degraded ({device.fault}) and its share of the cache is full")
        if self.flusher.waits_for_space:
            self.check()
        room = self._room
        self.waiting.append(device)
        self.on_reserving()
        try:
            await room.wait()
        finally:
            self.waiting.remove(device)
        if self._stuck:
            raise NoSpace(self._stuck)

    def _open_room(self, stuck: str = "") -> None:
        self._stuck = stuck
        room, self._room = self._room, trio.Event()
        room.set()

    def give_up_waiting(self, reason: str) -> None:
        """No room can be made: those who wait for it fail with NoSpace."""
        self._open_room(reason)

    # Durability

    def check(self) -> None:
        """Raises Failed or NoSpace when a barrier cannot be served."""
        if self._failure:
            raise Failed(f"cache {self.id} has failed: {self._failure}; unmount, repair the device, mount again")
        if self.flusher.waits_for_space:
            raise NoSpace(f"no space left for {self.path}; free some, writing goes on by itself")

    async def barrier(self) -> None:
        """Everything acknowledged before this call is durable when it returns. Raises Failed, NoSpace."""
        self.nr_barriers += 1
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
