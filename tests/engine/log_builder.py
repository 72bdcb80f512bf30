# SPDX-License-Identifier: GPL-2.0-or-later
"""A log put together by hand, record by record, as a writer, a crash or a bad medium may have left it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import attrs
import numpy as np
from crc32c import crc32c

from lcfs.engine.disk_format import ENTRY, DiskEntry, RecordHeader, Superblock, pack_record_header
from lcfs.engine.geometry import LINE, Geometry
from lcfs.engine.log_reader import LogReader, Record
from lcfs.testing import MemoryStore
from tests.engine.rig import page

UUID_1 = UUID(int=0xABCDEF)


@attrs.define
class Line:
    """One line of a record; its content is `page(number)`."""

    line: int
    number: int
    disk: int = 1
    dirty: int = 0xFF
    known_bad: bool = False
    """Its checksum is of something else, and it says so."""


class LogBuilder:
    """An image without superblocks; `superblock` says what they would say."""

    def __init__(self, segments: int = 8, blocks: int = 8) -> None:
        self.geometry = Geometry(segments, blocks)
        self.store = MemoryStore.of_size(self.geometry.nr_blocks * LINE, "/ssd.img", yields=False)
        self.superblock = Superblock(uuid=UUID_1, geometry=self.geometry, cache_id=1, generation=1)
        self.headers: list[RecordHeader] = []

    def say(self, **fields: object) -> None:
        """Change what the superblock says."""
        self.superblock = attrs.evolve(self.superblock, **fields)  # type: ignore[arg-type]

    def attach(self, *disks: tuple[int, int, int]) -> None:
        """Disks `(id, lines, attached_at)` in the superblock's table."""
        rows = [
            DiskEntry(number, UUID(int=number), lines * LINE, f"/disk{number}", f"disk{number}", UUID_1, attached_at=at)
            for number, lines, at in disks
        ]
        self.say(disks=tuple(rows))

    async def record(
        self,
        segment_id: int,
        block: int,
        lines: Sequence[Line] | int = 1,
        *,
        generation: int = 1,
        after: RecordHeader | None = None,
        durable: int = 0,
        tail: int = 1,
        uuid: UUID = UUID_1,
        position: int | None = None,
        previous: tuple[int, int] | None = None,
    ) -> RecordHeader:
        """Write a record; it links to `after`, by default the one made before."""
        if isinstance(lines, int):
            number = 100 * segment_id + block
            lines = [Line(row, number + row) for row in range(lines)]
        entries = np.zeros(len(lines), ENTRY)
        content = bytearray()
        for row, line in enumerate(lines):
            data = page(line.number)
            high = line.line >> 32 | (0x8000 if line.known_bad else 0)
            entries[row] = (line.line & 0xFFFFFFFF, high, line.disk, line.dirty, crc32c(data) ^ line.known_bad)
            content += data
        link = after or (self.headers[-1] if self.headers else None)
        if previous is None:
            previous = (link.position, link.crc) if link is not None else (0, 0)
        place = self.geometry.position(segment_id, block)
        header = RecordHeader(
            uuid=uuid,
            generation=generation,
            position=place if position is None else position,
            previous=previous[0],
            previous_crc=previous[1],
            durable=durable,
            tail=tail,
            entries=entries,
        )
        block_bytes = bytearray(LINE)
        header = attrs.evolve(header, crc=pack_record_header(header, memoryview(block_bytes)))
        await self.store.write(self.geometry.offset_of(place), [block_bytes, content])
        self.headers.append(header)
        return header

    def flip(self, position: int, byte: int = 0) -> None:
        """One wrong bit in the block at a log position."""
        offset = self.geometry.offset_of(position) + byte
        image = self.store.medium.live
        image.write(offset, bytes([image.read(offset, 1)[0] ^ 0x40]))

    async def walk(self, *, check_all: bool = False) -> tuple[LogReader, list[Record]]:
        """A reader at the end of its walk, and the records it accepted."""
        reader = LogReader(self.store, self.superblock, check_all=check_all)
        return reader, [record async for record in reader.walk()]

    async def accepted(self) -> list[int]:
        """Positions of the records that a reader accepts."""
        _, records = await self.walk()
        return [record.header.position for record in records]
