# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reader of the on-disk format, written from docs/disk_format.md alone.

It imports nothing of lcfs: where it and the engine disagree, one of them, or the document, is wrong. It is short
rather than quick. Numbers in comments are the steps of the document's section "Reading".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

BLOCK = 4096
MIB = 1 << 20
Checksum = Callable[[bytes], int]


def crc32c(data: bytes) -> int:
    """CRC32C bit by bit, as the document defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


class Disk(NamedTuple):
    """A row of the disk table, as far as reading the log needs it."""

    attached: bool
    cache_uuid: bytes
    size: int
    attached_at: int


class Superblock(NamedTuple):
    """A valid copy."""

    clean: bool
    sequence: int
    uuid: bytes
    blocks: int
    segments: int
    generation: int
    generation_start: int
    tail: int
    head: int
    disks: dict[int, Disk]


class Row(NamedTuple):
    """A line of a record: whose it is, and the block of the image it lies in."""

    device: int
    line: int
    dirty: int
    checksum: int
    block: int
    known_bad: bool


class Record(NamedTuple):
    """A header that is one, at the place where it says it is."""

    position: int
    generation: int
    previous: tuple[int, int]
    checksum: int
    durable: int
    rows: list[Row]

    @property
    def end(self) -> int:
        return self.position + 1 + len(self.rows)


def choose_superblock(image: bytes, checksum: Checksum = crc32c) -> Superblock:
    """The valid copy with the higher sequence (1)."""
    copies = [parse_superblock(image[offset : offset + MIB // 2], checksum) for offset in (0, MIB // 2)]
    valid = [copy for copy in copies if copy is not None]
    return max(valid, key=lambda copy: copy.sequence)


def parse_superblock(copy: bytes, checksum: Checksum = crc32c) -> Superblock | None:
    """A copy; None when it is not valid."""
    length = number(copy, 12, 4)
    covered = -(-length // BLOCK) * BLOCK
    if copy[:8] != bytes.fromhex("6c6366730073620a") or number(copy, 8, 4) != 1 or not 512 <= length <= MIB // 2:
        return None
    if checksum(copy[:16] + bytes(4) + copy[20:covered]) != number(copy, 16, 4):
        return None
    disks = {}
    at = 512
    for _ in range(number(copy, 124, 4)):
        disks[copy[at]] = Disk(
            attached=bool(copy[at + 1] & 1),
            cache_uuid=copy[at + 20 : at + 36],
            size=number(copy, at + 36, 8),
            attached_at=number(copy, at + 44, 8),
        )
        at += 72 + number(copy, at + 68, 2) + number(copy, at + 70, 2)
    return Superblock(
        clean=bool(number(copy, 20, 4) & 1),
        sequence=number(copy, 24, 8),
        uuid=copy[32:48],
        blocks=number(copy, 56, 4),
        segments=number(copy, 60, 4),
        generation=number(copy, 64, 8),
        generation_start=number(copy, 72, 8),
        tail=number(copy, 80, 8),
        head=number(copy, 88, 8),
        disks=disks,
    )


class SecondReader:
    """What an image holds: `records`, `damaged` (blocks), `verdict`, and `lines` after replay."""

    def __init__(self, image: bytes, checksum: Checksum = crc32c, superblock: Superblock | None = None) -> None:
        self.image = image
        self.checksum = checksum
        self.superblock = superblock or choose_superblock(image, checksum)
        self.records: list[Record] = []
        self.damaged: list[int] = []
        self.verdict = ""
        self._walk()

    # 2

    def _block_of(self, position: int) -> int:
        segment, block = divmod(position, self.superblock.blocks)
        return MIB // BLOCK + (segment - 1) % self.superblock.segments * self.superblock.blocks + block

    def _content(self, block: int) -> bytes:
        return self.image[block * BLOCK : (block + 1) * BLOCK]

    def _record(self, position: int) -> Record | None:
        superblock = self.superblock
        first = self._block_of(position)
        header = self._content(first)
        if header[:4] != b"lcR\n" or header[8:24] != superblock.uuid:
            return None
        if self.checksum(header[:4] + bytes(4) + header[8:]) != number(header, 4, 4):
            return None
        count, generation = number(header, 52, 4), number(header, 24, 8)
        if number(header, 32, 8) != position or count < 1 or position % superblock.blocks + 1 + count > superblock.blocks:
            return None
        if position >= superblock.generation_start:
            if generation != superblock.generation:
                return None
        elif generation >= superblock.generation or position >= superblock.head:
            return None
        rows = [
            Row(
                device=header[at + 6],
                line=number(header, at, 6) % (1 << 47),
                dirty=header[at + 7],
                checksum=number(header, at + 8, 4),
                block=first + 1 + row,
                known_bad=bool(header[at + 5] & 0x80),
            )
            for row, at in enumerate(range(128, 128 + 12 * count, 12))
        ]
        return Record(
            position=position,
            generation=generation,
            previous=(number(header, 40, 8), number(header, 48, 4)),
            checksum=number(header, 4, 4),
            durable=number(header, 56, 8),
            rows=rows,
        )

    # 3, 4, 6

    def _walk(self) -> None:
        start = self.superblock.tail * self.superblock.blocks
        record = self._record(start)
        while record is not None:
            if record.end > self.superblock.head:
                bad = [row.block for row in record.rows if row.dirty and not row.known_bad and self._is_bad(row)]
                if bad and self._durable_from(record.end - 1) < record.end:
                    self.verdict = "torn"
                    return
                self.damaged += bad
            self.damaged += [row.block for row in record.rows if row.known_bad]
            self.records.append(record)
            record = self._next(record)
        end = self.records[-1].end if self.records else start
        self.verdict = "hole" if self._durable_from(end) > end else "end"

    def _next(self, last: Record) -> Record | None:
        blocks, limit = self.superblock.blocks, self.superblock.tail + self.superblock.segments
        places = []
        if last.end % blocks and last.end % blocks + 2 <= blocks:
            places.append(last.end)
        segment = -(-last.end // blocks)
        if segment < limit:
            places.append(segment * blocks)
        found = [
            record
            for record in map(self._record, places)
            if record is not None and record.previous == (last.position, last.checksum) and record.generation >= last.generation
        ]
        return max(found, key=lambda record: record.generation) if found else None

    def _is_bad(self, row: Row) -> bool:
        return self.checksum(self._content(row.block)) != row.checksum

    # 5

    def _durable_from(self, position: int) -> int:
        """How far the log is known to have been durable, asking from `position` on."""
        superblock = self.superblock
        if superblock.clean:
            return superblock.head
        segment = position // superblock.blocks
        limit = superblock.tail + superblock.segments
        places = list(range(position, (min(segment + 1, limit - 1) + 1) * superblock.blocks))
        for later in range(segment + 2, min(segment + 128, limit - 1) + 1):
            if self._record(later * superblock.blocks) is not None:
                places += range(later * superblock.blocks, (later + 1) * superblock.blocks)
        said = [record.durable for record in map(self._record, places) if record is not None]
        return max([superblock.head, *said])

    # 7

    @property
    def lines(self) -> dict[tuple[int, int], Row]:
        """The newest row of each line, by disk and address."""
        newest: dict[tuple[int, int], Row] = {}
        for record in self.records:
            for row in record.rows:
                disk = self.superblock.disks.get(row.device)
                if not row.dirty or disk is None or not disk.attached or disk.cache_uuid != self.superblock.uuid:
                    continue
                past = row.line * BLOCK + row.dirty.bit_length() * 512 > disk.size
                if record.position >= disk.attached_at and not past:
                    newest[row.device, row.line] = row
        return newest
