# SPDX-License-Identifier: GPL-2.0-or-later
"""The write path: a line goes to the open record; that is the acknowledgement (dm-lc lc_map, rw == WRITE).

A hit in the open record is overwritten in place. Any other line gets a new place, and its older version, in RAM or
on the image, is not dirty any more; old dirty sectors that the write does not cover are taken along, so nothing
ever waits for the backing (B08, B33).
"""

from __future__ import annotations

import logging

import attrs
import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.block_store import Buffer
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.errors import Failed
from lcfs.engine.geometry import FULL, LINE, LINE_SHIFT, SECTOR
from lcfs.engine.read_path import ATTEMPTS, IN_LINE, READ_AGAIN_PAUSE, SMALL_RUN, ReadPath
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER, WRITE

log = logging.getLogger("lcfs.engine.write")

_WRITE_MISS = WRITE | FULLSIZE
_WRITE_HIT = WRITE | HIT | FULLSIZE
_WRITE_ON_BUFFER = WRITE | HIT | ON_BUFFER | FULLSIZE


@attrs.define(eq=False)
class _Watch:
    """A line between whose reading and rewriting nobody may write; see `WritePath._write_unaligned`."""

    device: CachedDevice
    line: int
    touched: bool = False


class WritePath(ReadPath):
    """Writing into the open record."""

    _watches: list[_Watch]

    def write_nowait(self, device: CachedDevice, offset: int, data: Buffer) -> int:
        """Take a write that needs no waiting; bytes taken, or -1. The range must lie on the disk.

        The common case, one whole line, is decided here without a call.
        """
        length = len(data)
        if offset & IN_LINE:
            return -1
        if length != LINE:
            if length & IN_LINE or not length:
                return -1
            count = length >> LINE_SHIFT
            if count > self._limit - self._cursor and not (
                self._cursor == self._limit and count < self._blocks and self.roll(device)
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
            if not self.roll(device):
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
            line, start = offset >> LINE_SHIFT, offset & IN_LINE
            if start == 0 and len(view) >= LINE:
                while self._cursor == self._limit and not self.roll(device):
                    await self._wait_for_room(device)
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
        if self._cursor == self._limit and not self.roll(device):
            await self._wait_for_room(device)
            return None
        index = device.table.index[line]
        if not index or not self.states.dirty[index]:
            return None
        is_read = False
        for _ in range(ATTEMPTS):
            crc = self.states.crc[index]
            scratch = memoryview(bytearray(LINE))
            is_read = await self._read_image(index, scratch)
            if is_read and crc32c(scratch) == crc:
                return index, crc, scratch
            if not is_read:
                await trio.sleep(READ_AGAIN_PAUSE)
            if device.table.index[line] != index or self.states.crc[index] != crc:
                return None
        if not is_read:
            raise Failed(
                f"the rest of line {line} of disk {device.id} cannot be read from {self.path}; look at the device under it"
            )
        self.crc_errors += 1
        self.ring.bad_lines.add(index)
        log.error("line %d of disk %d is damaged on %s", line, device.id, self.path)
        raise Failed(f"line {line} of disk {device.id} is damaged on {self.path}; overwrite it as a whole to mend it")

    def _put_sectors(
        self, device: CachedDevice, line: int, start: int, data: memoryview, old: tuple[int, int, memoryview] | None
    ) -> bool:
        """Put whole sectors of one line in the open record; False when `_prepare` has to wait for something first.

        A line that is cached elsewhere takes its old dirty sectors along (B08, B33). The piece never counts as full size:
        where its sectors cover the line, some were read along.
        """
        states, table = self.states, device.table.index
        first, count = start // SECTOR, len(data) // SECTOR
        mask = ((1 << count) - 1) << first
        index = table[line]
        if self._record_start < index < self._cursor:
            if self._watches:
                self._touch(device, line, 1)
            at = (index - self._base) << LINE_SHIFT
            self._view[at + start : at + start + len(data)] = data
            states.dirty[index] |= mask
            states.valid[index] |= mask
            self._counters[WRITE | HIT | ON_BUFFER] += 1
            return True
        if self._cursor == self._limit:
            if not self.roll(device):
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
        self._counters[WRITE | (HIT if index else 0)] += 1
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
