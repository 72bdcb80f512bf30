# SPDX-License-Identifier: GPL-2.0-or-later
"""The read path: runs of lines from RAM, the image or the backing, merged in memory (dm-lc lc_map, rw == READ).

Reads write nothing (B09, B10, B46): a line that is dirty in part is put together in the reader's buffer, a clean
line that is still on the image is served from there. Every line that comes from the image is checked against
its CRC; that also tells when its slot was given to another line while the read was under way.
"""

from __future__ import annotations

import logging

import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.block_store import Buffer
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.errors import Failed, Missing
from lcfs.engine.geometry import FULL, LINE, LINE_SHIFT, SECTOR
from lcfs.engine.latency import BACKING, IMAGE, RAM
from lcfs.engine.log import Log
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER

log = logging.getLogger("lcfs.engine.read")

IN_LINE = LINE - 1
ATTEMPTS = 4
"""Times a line that fails its CRC is looked up and read again before it counts as damaged."""
READ_AGAIN_PAUSE = 0.1
"""Seconds before a read of the image that failed is repeated: what failed may be gone for a moment only."""
UNREADABLE = -1
"""What `_fill` returns when the image could not be read, which says nothing of the line's content."""
SMALL_RUN = 4
"""Up to this many lines a loop is quicker than numpy."""


class ReadPath(Log):
    """Reading through the log's tables."""

    crc_errors = 0
    """Lines that did not match their CRC when read from the image."""
    nr_image_reads = 0
    """Reads of the image that had to wait."""
    read_errors = 0
    """Reads of the image that failed."""
    _reading = 0
    """Reads of the image under way."""

    def read_nowait(self, device: CachedDevice, offset: int, length: int) -> Buffer | None:
        """Serve a read from RAM or the page cache; None when that would block. The range must lie on the disk.

        What is returned is valid until the next await.
        """
        if length == LINE and not offset & IN_LINE:
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
                    is_unreadable, good = good == UNREADABLE, max(good, 0)
                    now = device.table.index[line + good]
                    failed = (line + good, now, self.states.crc[now])
                    failures = failures + 1 if failed == suspect else 1
                    suspect = failed
                    # for a clean line nobody needs to wait: the backing has it
                    if failures >= ATTEMPTS or (is_unreadable and not self.states.dirty[now]):
                        self._give_up_line(device, line + good, is_unreadable)
                    elif is_unreadable:
                        await trio.sleep(READ_AGAIN_PAUSE)
                nr = good
            line += nr
        return view[offset - (first << LINE_SHIFT) :][:length]

    def read_source(self, device: CachedDevice, offset: int, length: int) -> int:
        """Where a read is served from now, without serving it; see Device.read_source."""
        # index 0, "not cached", is a block of the superblock, of which no sector is ever valid
        states, ram = self.states, self._ram
        first, last = offset >> LINE_SHIFT, -(-(offset + length) >> LINE_SHIFT)
        if last - first == 1:
            index = device.table.index[first]
            if states.valid[index] != FULL:
                return BACKING
            return RAM if (index - self._first_block) // self._blocks in ram else IMAGE
        indices = device.table.array[first:last]
        if (states.valid_array[indices] != FULL).any():
            return BACKING
        slots = np.unique((indices - self._first_block) // self._blocks)
        return RAM if all(slot in ram for slot in slots.tolist()) else IMAGE

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
                if self.ring.bad_lines and not self.ring.bad_lines.isdisjoint(range(index, index + count)):
                    return False
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
        """Fill `out` with a run, waiting; how many lines from its start are good, or UNREADABLE.

        A line that fails its CRC may have moved while this waited, so the caller looks it up again.
        """
        if not index:
            await self._read_backing(device, line, out)
            return count
        states = self.states
        if states.valid[index] == FULL:
            crcs = states.crc[index : index + count].tolist()
            if not await self._read_image(index, out):
                # of many blocks one may be the cause: the first is tried alone, and the caller goes on behind it
                if count == 1 or not await self._read_image(index, out[:LINE]):
                    return UNREADABLE
                return int(crc32c(out[:LINE]) == crcs[0])
            for at in range(count):
                if crc32c(out[at << LINE_SHIFT : (at + 1) << LINE_SHIFT]) != crcs[at]:
                    return at
            return count
        mask, crc = states.valid[index], states.crc[index]
        content = self._in_ram(index)
        if content is None:
            content = memoryview(bytearray(LINE))
            if not await self._read_image(index, content):
                return UNREADABLE
            if crc32c(content) != crc:
                return 0
        else:
            content = memoryview(bytes(content))
        await self._read_backing(device, line, out)
        if device.table.index[line] != index or states.crc[index] != crc:
            # a newer version may have got to the backing: never half of one and half of the other
            return 0
        _overlay(out, content, mask)
        return 1

    def _give_up_line(self, device: CachedDevice, line: int, is_unreadable: bool) -> None:
        """A line fails its CRC, or to be read, again and again: dropped when clean, so that the backing serves it; else
        EIO (R5). One that could only not be read is not damaged for that.
        """
        index = device.table.index[line]
        if not index:
            return
        self.crc_errors += not is_unreadable
        what = "cannot be read from" if is_unreadable else "is damaged on"
        if self.states.dirty[index]:
            if not is_unreadable:
                self.ring.bad_lines.add(index)
            log.error("line %d of disk %d %s %s", line, device.id, what, self.path)
            then = "look at the device under it" if is_unreadable else "its newest data is lost"
            raise Failed(f"line {line} of disk {device.id} {what} {self.path}; {then}")
        log.warning("line %d of disk %d %s %s; it is clean, the backing serves it", line, device.id, what, self.path)
        self._forget_clean(device, index)

    def _forget_clean(self, device: CachedDevice, index: int) -> None:
        """A clean line is served from the backing from now on."""
        device.table.index[self.states.line[index]] = 0
        self.states.valid[index] = 0

    async def _read_image(self, index: int, out: memoryview) -> bool:
        """Whether `out` was filled from the image."""
        self._reading += 1
        self.nr_image_reads += 1
        try:
            await self.image.readinto(index << LINE_SHIFT, out)
        except OSError as exc:
            self.read_errors += 1
            log.warning("%s cannot be read at block %d: %s", self.path, index, exc)
            return False
        finally:
            self._reading -= 1
        return True

    async def _read_backing(self, device: CachedDevice, line: int, out: memoryview) -> None:
        store = device.store
        if store is None:
            raise Missing(f"the backing of disk {device.id} is missing; bring it back and mount again")
        start = line << LINE_SHIFT
        length = min(len(out), device.size - start)
        try:
            with device.load.reading(length):
                await store.readinto(start, out[:length])
        except OSError as exc:
            device.nr_read_errors += 1
            raise Failed(f"{store.name} cannot be read: {exc.strerror or exc}", errno=exc.errno) from exc

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
        full_first = first if not offset & IN_LINE else first + 1
        full_last = last if not end & IN_LINE else last - 1
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


def _overlay(out: memoryview, content: memoryview, mask: int) -> None:
    """Put the sectors of `mask` from `content` over `out`."""
    for sector in range(LINE // SECTOR):
        if mask >> sector & 1:
            out[sector * SECTOR : (sector + 1) * SECTOR] = content[sector * SECTOR : (sector + 1) * SECTOR]
