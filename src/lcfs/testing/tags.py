# SPDX-License-Identifier: GPL-2.0-or-later
"""Test data that says where it belongs: every sector of every write is unique.

A sector of 512 bytes is the same 16 bytes 32 times over: a mark, the disk, the sector, the number of the
write. So any sector found anywhere names its origin, and one that was torn inside names none.
"""

from __future__ import annotations

import struct

import attrs

from lcfs.engine.block_store import Buffer
from lcfs.engine.geometry import SECTOR

_TAG = struct.Struct("<BBHIQ")
_MARK = 0x7C
_REPEATS = SECTOR // _TAG.size
ZERO_SECTOR = bytes(SECTOR)


@attrs.frozen
class Origin:
    """The write that a sector's content comes from, and the place it was written to."""

    disk: int
    sector: int
    number: int

    def __str__(self) -> str:
        return f"write {self.number} to sector {self.sector} of disk {self.disk}"


def tagged(disk: int, offset: int, length: int, number: int) -> bytes:
    """What write `number` puts at bytes `offset..offset+length` of `disk`."""
    first = offset // SECTOR
    behind = -(-(offset + length) // SECTOR)
    pack = _TAG.pack
    data = b"".join([pack(_MARK, disk, 0, sector, number) * _REPEATS for sector in range(first, behind)])
    begin = offset - first * SECTOR
    return data if begin == 0 and len(data) == length else data[begin : begin + length]


def origin(sector: Buffer) -> Origin | None:
    """Where the content of a whole sector comes from; None: not from a single write."""
    content = bytes(sector)
    mark, disk, zero, number_of_sector, number = _TAG.unpack_from(content)
    if mark != _MARK or zero or content != content[: _TAG.size] * _REPEATS:
        return None
    return Origin(disk, number_of_sector, number)


def describe(sector: Buffer) -> str:
    """The same for a person."""
    content = bytes(sector)
    if content == ZERO_SECTOR:
        return "zeros"
    found = origin(content)
    if found is not None:
        return str(found)
    units = {content[i : i + _TAG.size] * _REPEATS for i in range(0, SECTOR, _TAG.size)}
    parts = sorted({"zeros" if unit == ZERO_SECTOR else str(origin(unit) or "foreign bytes") for unit in units})
    return "a mixture of " + " and ".join(parts) if len(parts) > 1 else f"foreign bytes {content[:16].hex()}..."
