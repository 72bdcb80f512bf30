# SPDX-License-Identifier: GPL-2.0-or-later
"""The on-disk format: structs, and nothing that does I/O. `docs/disk_format.md` is its description.

Little-endian throughout. Bytes from disk become `Superblock` and `RecordHeader` only through the
`unpack_*` functions, which check magic, version, bounds and CRC32C; nothing else reads raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from uuid import UUID

import attrs
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from lcfs.engine.errors import Damaged, NewerVersion, NoSpace, NotACacheImage
from lcfs.engine.geometry import BLOCKS_PER_SEGMENT, LINE, MAX_ID, MAX_LINES, SECTOR, SUPERBLOCK_AREA, Geometry
from lcfs.engine.tunables import MIGRATE_THRESHOLD, TUNABLES

VERSION = 1
SUPERBLOCK_MAGIC = b"lcfs\x00sb\n"
RECORD_MAGIC = b"lcR\n"

SUPERBLOCK_COPIES = (0, SUPERBLOCK_AREA // 2)
"""Byte offsets of the two copies, written alternately."""
SUPERBLOCK_MAX = SUPERBLOCK_AREA // 2
"""Bytes a copy may take: 254 disks with names and paths as long as they may be do not all fit, see `pack_superblock`."""

FLAG_CLEAN = 1
"""The image was left by a clean stop: the log ends at `head`, exactly."""
DISK_ATTACHED = 1
"""The disk's writes go through this cache, so its lines in the log are alive."""

_SUPERBLOCK = struct.Struct("<8sIIIIQ16sIIIIQQQQ7II")
_DISK = struct.Struct("<BBBB16s16sQQQQHH")
_RECORD = struct.Struct("<4sI16sQQQIIQQ")
ENTRIES_OFFSET = 128
ENTRY = np.dtype([("line", "<u4"), ("line_high", "<u2"), ("device_id", "u1"), ("dirty", "u1"), ("crc", "<u4")])
"""One line of a record: address on the disk in lines (47 bits), disk id, dirty bits, CRC32C of the 4 KiB."""
KNOWN_BAD = 0x8000
"""Bit of `line_high`: the line was damaged before it was copied here, and keeps the CRC it should have matched."""

assert len(TUNABLES) == 7
assert _SUPERBLOCK.size <= SECTOR
assert _RECORD.size <= ENTRIES_OFFSET
assert ENTRY.itemsize == 12
assert ENTRIES_OFFSET + 255 * ENTRY.itemsize <= LINE

MOST = 1 << 63
"""A counter that has come this far was not counted up to it: sequence and generation are below, so that they can grow."""
LAST_SEGMENT = 1 << 54
"""Segment ids end here, so that log positions fit 63 bits. At a segment a microsecond it takes 500 years."""
MAX_PATH = 4095
MAX_NAME = 64


@attrs.frozen
class DiskEntry:
    """A row of the disk table: what the image remembers of one disk."""

    id: int
    uuid: UUID
    size: int
    path: str
    name: str
    cache_uuid: UUID | None
    """The cache it is attached to; None: it is a disk without a cache."""
    attached_at: int = 0
    """Log position at which it was attached: entries of its id before that are another disk's, or dead (B22, B23)."""
    stamp: int = 0
    previous_stamp: int = 0
    """A backing with either stamp was written by nobody else since (R7)."""
    migrate_threshold: int = MIGRATE_THRESHOLD.default


@attrs.frozen
class Superblock:
    """What the image knows of itself. Positions are log positions (geometry.py)."""

    uuid: UUID
    geometry: Geometry
    cache_id: int
    sequence: int = 1
    """Grows by one with each commit; the valid copy with the higher one counts."""
    generation: int = 1
    generation_start: int = 0
    """Records from this position on belong to `generation`, those before it to earlier ones."""
    tail: int = 1
    """Id of the oldest segment that may hold dirty lines; everything before it is on the backings (durable tail)."""
    head: int = 0
    """The log was durable up to here when this was written: damage before it is no torn tail."""
    clean: bool = False
    tunables: dict[str, int] = attrs.field(factory=dict)
    disks: tuple[DiskEntry, ...] = ()
    had_disk: bool = False
    """Whether the image ever had a disk: the default disk is made only once."""


FLAG_HAD_DISK = 2


def require_table_room(disks: Iterable[DiskEntry]) -> None:
    """Raises NoSpace when the disk table outgrows its half MiB."""
    if SECTOR + sum(len(_pack_disk(disk)) for disk in disks) > SUPERBLOCK_MAX:
        raise NoSpace("the disk table is full; use shorter paths, or remove disks that are not needed")


def pack_superblock(superblock: Superblock) -> bytes:
    """The copy as bytes, padded with zeros to whole blocks.

    Raises NoSpace when the disk table outgrows its half MiB.
    """
    require_table_room(superblock.disks)
    rows = [_pack_disk(disk) for disk in superblock.disks]
    length = SECTOR + sum(map(len, rows))
    flags = (FLAG_CLEAN if superblock.clean else 0) | (FLAG_HAD_DISK if superblock.had_disk else 0)
    geometry = superblock.geometry
    head = _SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC,
        VERSION,
        length,
        0,
        flags,
        superblock.sequence,
        superblock.uuid.bytes,
        superblock.cache_id,
        LINE,
        geometry.blocks_per_segment,
        geometry.nr_segments,
        superblock.generation,
        superblock.generation_start,
        superblock.tail,
        superblock.head,
        *(superblock.tunables.get(name, row.default) for name, row in TUNABLES.items()),
        len(rows),
    )
    packed = bytearray(-(-length // LINE) * LINE)
    packed[: len(head)] = head
    offset = SECTOR
    for row in rows:
        packed[offset : offset + len(row)] = row
        offset += len(row)
    struct.pack_into("<I", packed, 16, crc32c(packed))
    return bytes(packed)


def unpack_superblock(copy: bytes, image_size: int) -> Superblock:
    """The superblock in `copy` (a whole half of the superblock area).

    Raises NotACacheImage (no magic), NewerVersion, Damaged (CRC, bounds, an image shorter than it says).
    """
    if copy[:8] != SUPERBLOCK_MAGIC:
        raise NotACacheImage("no superblock magic")
    version, length, stored_crc = struct.unpack_from("<III", copy, 8)
    if not SECTOR <= length <= SUPERBLOCK_MAX:
        raise Damaged("superblock with an impossible length")
    padded = -(-length // LINE) * LINE
    body = bytearray(copy[:padded])
    body[16:20] = bytes(4)
    if len(body) != padded or crc32c(body) != stored_crc:
        raise Damaged("superblock checksum mismatch")
    # magic, version, length and CRC keep place and meaning in all versions, so rot is never taken for a newer one
    if version > VERSION:
        raise NewerVersion(f"format version {version} is newer than {VERSION}, the one this lcfs knows; use a newer lcfs")
    if version < 1:
        raise Damaged("superblock with an impossible version")
    fields = _SUPERBLOCK.unpack_from(copy)
    (_, _, _, _, flags, sequence, uuid, cache_id, line, blocks, segments, generation, start, tail, head) = fields[:15]
    values, nr_disks = fields[15:22], fields[22]
    if line != LINE or not 2 <= blocks <= BLOCKS_PER_SEGMENT or segments < 1 or not 1 <= cache_id <= MAX_ID or tail < 1:
        raise Damaged("superblock with an impossible geometry")
    if sequence >= MOST or generation >= MOST or tail > LAST_SEGMENT:
        raise Damaged("superblock with an impossible sequence, generation or tail")
    # the log never goes on into the slot of its oldest segment, and a generation begins with a segment
    if max(head, start) > (tail + segments) * blocks or start % blocks:
        raise Damaged("superblock with an impossible head or generation_start")
    geometry = Geometry(segments, blocks)
    if geometry.nr_blocks * LINE > image_size:
        raise Damaged(
            f"the image was made with {geometry.nr_blocks * LINE} bytes and has {image_size}: it was truncated; "
            "restore its size and content from where it was copied"
        )
    tunables = {}
    for (name, row), value in zip(TUNABLES.items(), values, strict=True):
        if not row.low <= value <= row.high:
            raise Damaged(f"superblock with {name} {value}")
        tunables[name] = value
    offset = SECTOR
    disks = []
    for _ in range(nr_disks):
        disk, offset = _unpack_disk(copy, offset, length)
        disks.append(disk)
    if len({disk.id for disk in disks}) != len(disks):
        raise Damaged("superblock that names a disk id twice")
    return Superblock(
        uuid=UUID(bytes=uuid),
        geometry=geometry,
        cache_id=cache_id,
        sequence=sequence,
        generation=generation,
        generation_start=start,
        tail=tail,
        head=head,
        clean=bool(flags & FLAG_CLEAN),
        tunables=tunables,
        disks=tuple(disks),
        had_disk=bool(flags & FLAG_HAD_DISK),
    )


def _pack_disk(disk: DiskEntry) -> bytes:
    name, path = disk.name.encode(), disk.path.encode("utf-8", "surrogateescape")
    attached = disk.cache_uuid is not None
    return (
        _DISK.pack(
            disk.id,
            DISK_ATTACHED if attached else 0,
            disk.migrate_threshold,
            0,
            disk.uuid.bytes,
            disk.cache_uuid.bytes if disk.cache_uuid is not None else bytes(16),
            disk.size,
            disk.attached_at,
            disk.stamp,
            disk.previous_stamp,
            len(name),
            len(path),
        )
        + name
        + path
    )


def _unpack_disk(copy: bytes, offset: int, end: int) -> tuple[DiskEntry, int]:
    if offset + _DISK.size > end:
        raise Damaged("disk table that runs past its end")
    (number, flags, threshold, _, uuid, cache, size, at, stamp, before, name_length, path_length) = _DISK.unpack_from(
        copy, offset
    )
    offset += _DISK.size
    if offset + name_length + path_length > end or name_length > MAX_NAME or path_length > MAX_PATH:
        raise Damaged("disk table with a name or path that runs past its end")
    if not 1 <= number <= MAX_ID or size % SECTOR or not 0 < size <= MAX_LINES * LINE or not 0 <= threshold <= 100:
        raise Damaged("disk table with an impossible id, size or threshold")
    if at > LAST_SEGMENT * BLOCKS_PER_SEGMENT:
        raise Damaged("disk table with an impossible position")
    try:
        name = copy[offset : offset + name_length].decode()
    except UnicodeDecodeError:
        raise Damaged("disk table with a name that is not text") from None
    offset += name_length
    path = copy[offset : offset + path_length].decode("utf-8", "surrogateescape")
    offset += path_length
    entry = DiskEntry(
        id=number,
        uuid=UUID(bytes=uuid),
        size=size,
        path=path,
        name=name,
        cache_uuid=UUID(bytes=cache) if flags & DISK_ATTACHED else None,
        attached_at=at,
        stamp=stamp,
        previous_stamp=before,
        migrate_threshold=threshold,
    )
    return entry, offset


@attrs.frozen(eq=False)
class RecordHeader:
    """The header block of a log record: which lines lie behind it, and where it stands in the log."""

    uuid: UUID
    generation: int
    position: int
    """Of the header block itself; its lines are at the positions that follow."""
    previous: int
    previous_crc: int
    """Position and CRC of the record before it: the log is a chain, and a fork of an abandoned timeline does not link."""
    durable: int
    """The log was durable up to here when this was sealed: a hole before it is damage, no torn tail."""
    tail: int
    """The durable tail at that time."""
    entries: npt.NDArray[np.void]
    """`ENTRY` rows; a row with no dirty bits was overtaken by a later row of the same record."""
    crc: int = 0

    @property
    def count(self) -> int:
        """Lines behind the header block."""
        return len(self.entries)

    @property
    def end(self) -> int:
        """Position behind the last line."""
        return self.position + 1 + len(self.entries)


def pack_record_header(header: RecordHeader, block: memoryview) -> int:
    """Write the header block into `block` (4096 bytes); returns its CRC32C.

    A complete block is written, unused bytes as zero: nothing stale leaks (B36, B37).
    """
    assert 1 <= header.count <= 255, header.count
    block[:ENTRIES_OFFSET] = bytes(ENTRIES_OFFSET)
    _RECORD.pack_into(
        block,
        0,
        RECORD_MAGIC,
        0,
        header.uuid.bytes,
        header.generation,
        header.position,
        header.previous,
        header.previous_crc,
        header.count,
        header.durable,
        header.tail,
    )
    end = ENTRIES_OFFSET + header.count * ENTRY.itemsize
    block[ENTRIES_OFFSET:end] = memoryview(header.entries.tobytes())
    block[end:] = bytes(LINE - end)
    crc = crc32c(block)
    struct.pack_into("<I", block, 4, crc)
    return crc


def unpack_record_header(block: bytes | bytearray | memoryview, uuid: UUID) -> RecordHeader | None:
    """The header in `block`, or None when these bytes are no intact record header of the cache `uuid`."""
    if bytes(block[:4]) != RECORD_MAGIC or bytes(block[8:24]) != uuid.bytes:
        return None
    (_, stored_crc, _, generation, position, previous, previous_crc, count, durable, tail) = _RECORD.unpack_from(block)
    body = bytearray(block)
    body[4:8] = bytes(4)
    if crc32c(body) != stored_crc or not 1 <= count <= 255:
        return None
    entries = np.frombuffer(body, ENTRY, count, ENTRIES_OFFSET)
    return RecordHeader(uuid, generation, position, previous, previous_crc, durable, tail, entries, stored_crc)
