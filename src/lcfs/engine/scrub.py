# SPDX-License-Identifier: GPL-2.0-or-later
"""Scrub: read what is on the image and verify it, while the cache is in use and before anybody needs it.

Dirty segments come first, the oldest before the others: what they hold is nowhere else. Then the clean lines that are still
served. A line in RAM is not read: nobody would see what the image says of it. Of dirty segments the record headers are
verified too, because the next mount would stop at a damaged one, while now everything is known in RAM and can be
written back.

A line that is found damaged: clean, it is forgotten and the backing serves it; dirty, it goes on the list of damaged ones,
reads as EIO and is not written back. One that cannot be read is not damaged (unreadable.py). Nothing is written here.

What may move during a read of the image, and what is looked at behind it: docs/concurrency.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

import attrs
import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.block_store import BlockStore
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import unpack_record_header
from lcfs.engine.errors import InUse
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import anonymous
from lcfs.engine.ring import Ring
from lcfs.engine.unreadable import Unreadable

log = logging.getLogger("lcfs.engine.scrub")

CHUNK = 64
"""Blocks read at a time: 256 KiB hold up a request behind them for less than a millisecond on an SSD."""
REST = 3
SHORTEST_REST = 0.005
LONGEST_REST = 1.0
"""Behind each chunk it rests REST times as long as the chunk took, within these bounds, in seconds."""
BUSY_PAUSE = 0.02
"""Seconds between two looks whether requests still wait for the image."""
READ_AGAIN = 3
READ_AGAIN_PAUSE = 0.1
"""How often, and seconds apart, what seems damaged is read again."""


@attrs.define
class Tally:
    """What a pass has seen so far."""

    segments: int = 0
    of: int = 0
    lines: int = 0
    clean: int = 0
    """Damaged or unreadable clean lines, which the backing serves now."""
    dirty: int = 0
    """Damaged dirty lines, whose data is lost."""
    unreadable: int = 0
    """Dirty lines that could not be read."""
    records: int = 0
    """Damaged record headers that the next mount would need."""

    def __str__(self) -> str:
        return (
            f"{self.segments} of {self.of} segments, {self.lines} lines; "
            f"{self.dirty} dirty lines damaged, {self.unreadable} unreadable, {self.clean} clean lines forgotten, "
            f"{self.records} records damaged"
        )


class Scrub:
    """The scrubber of one cache; rests until `start`."""

    def __init__(
        self,
        ring: Ring,
        image: BlockStore,
        uuid: UUID,
        *,
        unreadable: Unreadable,
        is_in_ram: Callable[[int], bool],
        is_busy: Callable[[], bool],
        give_up_clean: Callable[[CachedDevice, int, bool], None],
        on_bad_line: Callable[[CachedDevice, int], None],
    ) -> None:
        self.tally = Tally()
        self.word = "idle"
        """`idle` before the first pass, `running`, then `finished` or `stopped`."""
        self.bad_records: set[int] = set()
        """Ids of segments with a damaged record header."""
        self._ring = ring
        self._image = image
        self._uuid = uuid
        self._unreadable = unreadable
        self._is_in_ram = is_in_ram
        self._is_busy = is_busy
        self._give_up_clean = give_up_clean
        self._on_bad_line = on_bad_line
        self._wanted = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def text(self) -> str:
        """How it goes, or how it went: the word and the counts."""
        return self.word if self.word == "idle" else f"{self.word} {self.tally}"

    def start(self) -> None:
        """Begin a pass over all that is on the image now. Raises InUse while one is under way."""
        if self.word == "running":
            raise InUse("a scrub is under way; write 0 to stop it, or wait for its end")
        self.word, self.tally = "running", Tally()
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self._wanted.set()

    def stop(self) -> None:
        """End the pass that is under way, if any; what it has found stays found."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Return when no pass is under way."""
        if self.word == "running":
            await self._ended.wait()

    async def run(self) -> None:
        """Scrub when asked to, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            with self._scope as scope:
                await self._pass()
            self.word = "stopped" if scope.cancelled_caught else "finished"
            self._ended.set()
            log.info("scrub of %s: %s", self._image.name, self.text)

    async def _pass(self) -> None:
        ring = self._ring
        first = max(1, ring.segment_id - ring.geometry.nr_segments + 1)
        order = [*range(ring.tail, ring.segment_id + 1), *range(first, ring.tail)]
        self.tally.of = len(order)
        # aligned as direct I/O wants it; not reused by the next pass, for a read that was called off may still fill it
        buffer = memoryview(anonymous(CHUNK * LINE))
        for segment_id in order:
            await trio.lowlevel.checkpoint()
            await self._segment(segment_id, buffer)
            self.tally.segments += 1
        self.bad_records = {segment_id for segment_id in self.bad_records if segment_id >= ring.tail}

    def _is_there(self, segment_id: int) -> bool:
        """Whether the segment is on the image, completely, and its slot not given to another."""
        geometry = self._ring.geometry
        return segment_id > self._ring.segment_id - geometry.nr_segments and not self._is_in_ram(geometry.slot(segment_id))

    async def _segment(self, segment_id: int, buffer: memoryview) -> None:
        ring, blocks = self._ring, self._ring.geometry.blocks_per_segment
        base = ring.geometry.start_block(segment_id)
        next_header: int | None = 0
        for start in range(0, blocks, CHUNK):
            end = min(start + CHUNK, blocks)
            if segment_id < ring.tail:
                next_header = None  # nobody will look for its records any more
            if not self._is_there(segment_id) or not ring.states.valid_array[base + start : base + blocks].any():
                return
            if self._current_lines(base + start, base + end) or (next_header is not None and next_header < end):
                while self._is_busy():  # noqa: ASYNC110
                    # an event for this would cost every request something, be there a scrub or none
                    await trio.sleep(BUSY_PAUSE)
                next_header = await self._chunk(segment_id, start, end, next_header, buffer)

    def _current_lines(self, first: int, end: int) -> dict[int, int]:
        """Index and CRC of the lines between two blocks that are the newest of their address and not known to be damaged."""
        ring, states = self._ring, self._ring.states
        found = {}
        for index in (np.flatnonzero(states.valid_array[first:end]) + first).tolist():
            device = ring.devices[states.device[index]]
            if device is not None and device.table.index[states.line[index]] == index and index not in ring.bad_lines:
                found[index] = states.crc[index]
        return found

    async def _chunk(self, segment_id: int, start: int, end: int, next_header: int | None, buffer: memoryview) -> int | None:
        """Verify some blocks of a segment; where in it the next record header should be, None where that is not to be known."""
        ring = self._ring
        base = ring.geometry.start_block(segment_id)
        # no await between this look at the tables and the read: what the slot holds then is what is read
        if not self._is_there(segment_id):
            return None
        lines = self._current_lines(base + start, base + end)
        began = trio.current_time()
        failed = await self._read(base + start, buffer[: (end - start) * LINE])
        suspects = []
        for index, crc in lines.items():
            at = (index - base - start) * LINE
            if index in failed or crc32c(buffer[at : at + LINE]) != crc:
                suspects.append((index, crc))
            elif self._unreadable:
                self._unreadable.forget(ring.positions(np.array([index])).tolist())
        self.tally.lines += len(lines)
        while next_header is not None and start <= next_header < end:
            at = (next_header - start) * LINE
            length = self._record_length(segment_id, next_header, buffer[at : at + LINE])
            length = length or await self._look_at_header_again(segment_id, next_header)
            next_header = next_header + length if length else None
        for index, crc in suspects:
            await self._judge(segment_id, index, crc)
        await trio.sleep(min(max(SHORTEST_REST, REST * (trio.current_time() - began)), LONGEST_REST))
        return next_header

    async def _read(self, first: int, out: memoryview) -> set[int]:
        """Blocks of the medium; returns those that cannot be read."""
        try:
            await self._image.readinto_uncached(first * LINE, out)
        except OSError:
            if len(out) == LINE:
                return {first}
            failed: set[int] = set()
            for at in range(0, len(out), LINE):
                failed |= await self._read(first + at // LINE, out[at : at + LINE])
            return failed
        return set()

    def _record_length(self, segment_id: int, block: int, raw: memoryview) -> int:
        """Blocks of the record whose header this is, 0 when it is none of this place."""
        geometry = self._ring.geometry
        header = unpack_record_header(raw, self._uuid)
        if header is None or header.position != geometry.position(segment_id, block):
            return 0
        return 1 + header.count if block + header.count < geometry.blocks_per_segment else 0

    async def _look_at_header_again(self, segment_id: int, block: int) -> int:
        """The length of the record at a place where no header was found: 0 at the end of the segment's records, and where
        one is damaged, which is noted.
        """
        ring, blocks = self._ring, self._ring.geometry.blocks_per_segment
        base = ring.geometry.start_block(segment_id)
        raw = memoryview(anonymous(LINE))
        for _ in range(READ_AGAIN):
            await trio.sleep(READ_AGAIN_PAUSE)
            # lines behind are what says that there is a record
            if (
                segment_id < ring.tail
                or not self._is_there(segment_id)
                or not ring.states.valid_array[base + block : base + blocks].any()
            ):
                return 0
            if not await self._read(base + block, raw) and (length := self._record_length(segment_id, block, raw)):
                return length
        if segment_id >= ring.tail:
            self.tally.records += 1
            self.bad_records.add(segment_id)
            log.error(
                "the record at segment %d, block %d of %s is damaged; drop_caches mends that",
                segment_id,
                block,
                self._image.name,
            )
        return 0

    async def _judge(self, segment_id: int, index: int, crc: int) -> None:
        """A line did not match, or could not be read: look again, then decide."""
        ring, states = self._ring, self._ring.states
        raw = memoryview(anonymous(LINE))
        failed: set[int] = set()
        for _ in range(READ_AGAIN):
            await trio.sleep(READ_AGAIN_PAUSE)
            if not self._is_current(segment_id, index, crc):
                return
            failed = await self._read(index, raw)
            if not failed and crc32c(raw) == crc:
                return
        if not self._is_current(segment_id, index, crc):
            return
        device = ring.devices[states.device[index]]
        assert device is not None, "a current line has a disk"
        if not states.dirty[index]:
            self.tally.clean += 1
            self._give_up_clean(device, states.line[index], bool(failed))
        elif failed:
            self.tally.unreadable += 1
            self._unreadable.note([int(ring.positions(np.array([index]))[0])])
        else:
            self.tally.dirty += 1
            ring.bad_lines.add(index)
            self._on_bad_line(device, index)

    def _is_current(self, segment_id: int, index: int, crc: int) -> bool:
        """Whether `index` still holds the line it held when its CRC was taken."""
        return self._is_there(segment_id) and self._current_lines(index, index + 1) == {index: crc}
