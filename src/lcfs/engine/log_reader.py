# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the log forward from the durable tail: the one reader of recovery, `check` and `dump`.

Each record links to the one before it, so at every step there are two places where the next may be: right
behind the last record, or at the start of the next segment. The step is decided by this table, from
the top; `head` and `generation_start` are the superblock's.

    OLDER      a candidate links, but its generation does not fit its side of `generation_start`, or it lies between
               `head` and `generation_start`, where a recovery cut the log: an abandoned timeline, not a candidate.
    NEXT       one candidate links: it is the next record. Two link where a timeline was abandoned: the later
               generation is the next record.
    END        none links, and nothing says that more was durable: the log ends here. What lies behind it was
               never durable: a torn tail, or nothing.
    HOLE       none links, but the superblock's `head`, or a record further on that was sealed when more
               was durable, says that a record was here: damage, never cut off silently.

The lines of a record that is not known to be durable are checked against their CRCs:

    INTACT     all match.
    TORN       some do not, and nothing says the record was durable: the log ends before it.
    BAD_LINES  some do not, but the record was durable: it counts, its bad lines are damage.

Lines of a record before `head` were durable when the superblock was written and are not read here: each
is checked when it is read or migrated (R5), and mounting stays quick (R8).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator

import attrs
import numpy as np
from crc32c import crc32c

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import KNOWN_BAD, RecordHeader, Superblock, unpack_record_header
from lcfs.engine.errors import Damaged
from lcfs.engine.geometry import LINE

LOOKAHEAD_SEGMENTS = 128
"""How far behind a gap evidence is looked for: farther than the log ever is ahead of what is durable (log.py)."""


class Verdict(enum.Enum):
    """Why a walk ended; see the table above."""

    END = "end"
    TORN = "torn"
    HOLE = "hole"


@attrs.frozen(eq=False)
class Record:
    """An accepted record."""

    header: RecordHeader
    first_index: int
    """Cache index (block number) of its first line."""
    bad_lines: tuple[int, ...] = ()
    """Rows whose line fails its CRC (BAD_LINES)."""


class LogReader:
    """One walk over the log of an image. `async for record in reader.walk()`, then the attributes tell how it ended."""

    def __init__(self, store: BlockStore, superblock: Superblock, *, check_all: bool = False) -> None:
        self.end: int = superblock.geometry.position(superblock.tail, 0)
        """Position behind the last accepted record."""
        self.verdict = Verdict.END
        self.last: RecordHeader | None = None
        """The last accepted record's header."""
        self._store = store
        self._superblock = superblock
        self._geometry = superblock.geometry
        self._check_all = check_all
        self._segment_id = 0
        self._segment = bytearray()

    async def walk(self) -> AsyncIterator[Record]:
        """The records in log order. Ends at the first that does not belong; raises OSError."""
        while True:
            header = await self._next()
            if header is None:
                self.verdict = Verdict.HOLE if await self._was_durable(self.end) else Verdict.END
                return
            bad: tuple[int, ...] = ()
            if self._check_all or header.end > self._superblock.head:
                bad = await self._bad_lines(header)
                if bad and not await self._was_durable(header.end - 1):
                    self.verdict = Verdict.TORN
                    return
            self.last = header
            self.end = header.end
            bad += tuple(np.flatnonzero(header.entries["line_high"] & KNOWN_BAD).tolist())
            yield Record(header, self._geometry.offset_of(header.position) // LINE + 1, bad)

    def require_no_hole(self) -> None:
        """Raises Damaged after a walk that ended at a HOLE."""
        if self.verdict is Verdict.HOLE:
            segment_id, block = divmod(self.end, self._geometry.blocks_per_segment)
            raise Damaged(
                f"{self._store.name}: the log record at segment {segment_id}, block {block} was durable and is "
                f"damaged, so newer data behind it cannot be trusted to be complete; nothing was changed, run "
                f"`lcfs check {self._store.name}` to see the extent"
            )

    async def _next(self) -> RecordHeader | None:
        blocks = self._geometry.blocks_per_segment
        tail = self._superblock.tail
        if self.last is None:
            return await self._candidate(self.end)
        segment_id, block = divmod(self.end, blocks)
        following = segment_id + (1 if block else 0)
        links = []
        if block and block + 1 < blocks:
            links.append(await self._candidate(self.end))
        if following - tail < self._geometry.nr_segments:
            links.append(await self._candidate(following * blocks))
        return max((header for header in links if header is not None), key=lambda h: h.generation, default=None)

    async def _candidate(self, position: int) -> RecordHeader | None:
        header = await self._header_at(position)
        if header is None:
            return None
        last = self.last
        if last is not None and (
            header.previous != last.position or header.previous_crc != last.crc or header.generation < last.generation
        ):
            return None
        return header

    async def _header_at(self, position: int) -> RecordHeader | None:
        """The intact header at `position` that is of this place and of a timeline that counts there."""
        segment_id, block = divmod(position, self._geometry.blocks_per_segment)
        raw = bytearray(LINE)
        if block == 0 and segment_id != self._segment_id:
            # a segment written as one record needs no more than its first block
            await self._store.readinto(self._geometry.offset_of(position), memoryview(raw))
        else:
            segment = await self._load(segment_id)
            raw[:] = segment[block * LINE : (block + 1) * LINE]
        header = unpack_record_header(raw, self._superblock.uuid)
        if header is None or header.position != position or block + header.count >= self._geometry.blocks_per_segment:
            return None
        superblock = self._superblock
        if superblock.head <= position < superblock.generation_start or header.generation > superblock.generation:
            return None
        if (header.generation == superblock.generation) != (position >= superblock.generation_start):
            return None
        return header

    async def _load(self, segment_id: int) -> bytearray:
        if segment_id != self._segment_id:
            segment = bytearray(self._geometry.segment_bytes)
            await self._store.readinto(self._geometry.start_block(segment_id) * LINE, memoryview(segment))
            self._segment, self._segment_id = segment, segment_id
        return self._segment

    async def _bad_lines(self, header: RecordHeader) -> tuple[int, ...]:
        segment_id, block = divmod(header.position, self._geometry.blocks_per_segment)
        segment = memoryview(await self._load(segment_id))
        crcs, dirty = header.entries["crc"].tolist(), header.entries["dirty"].tolist()
        first = (block + 1) * LINE
        known_bad = (header.entries["line_high"] & KNOWN_BAD).tolist()
        return tuple(
            row
            for row, crc in enumerate(crcs)
            if dirty[row] and not known_bad[row] and crc32c(segment[first + row * LINE : first + (row + 1) * LINE]) != crc
        )

    async def _was_durable(self, position: int) -> bool:
        """Whether anything says that the log was durable beyond `position`."""
        superblock, geometry = self._superblock, self._geometry
        if superblock.head > position:
            return True
        if superblock.clean:
            return False
        segment_id = geometry.segment_of(position)
        last_id = min(segment_id + LOOKAHEAD_SEGMENTS, superblock.tail + geometry.nr_segments - 1)
        blocks = geometry.blocks_per_segment
        if await self._any_says(position, range(position, (segment_id + 1) * blocks)):
            return True
        for following in range(segment_id + 1, last_id + 1):
            start = following * blocks
            # segments of this timeline behind a gap are rare, and each of their records may be the one that knows
            in_use = await self._header_at(start) is not None
            whole = in_use or following == segment_id + 1
            if whole and await self._any_says(position, range(start, start + blocks)):
                return True
        return False

    async def _any_says(self, position: int, places: range) -> bool:
        for place in places:
            header = await self._header_at(place)
            if header is not None and header.durable > position:
                return True
        return False
