# SPDX-License-Identifier: GPL-2.0-or-later
"""How a field is spoilt, where the fields are, and how many rounds of the random part are run."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import attrs
from crc32c import crc32c

from lcfs.engine.geometry import LINE

ROUNDS = int(os.environ.get("LCFS_FUZZ_ROUNDS", "60"))
"""Random cases of each kind; `make fuzz ROUNDS=n` sets it."""


@attrs.frozen
class Field:
    """Some bytes of a struct; offsets are those of docs/disk_format.md."""

    name: str
    offset: int
    size: int


def fields(*rows: tuple[str, int, int]) -> tuple[Field, ...]:
    """Field rows."""
    return tuple(Field(*row) for row in rows)


SUPERBLOCK = fields(
    ("magic", 0, 8),
    ("version", 8, 4),
    ("length", 12, 4),
    ("flags", 20, 4),
    ("sequence", 24, 8),
    ("uuid", 32, 16),
    ("cache_id", 48, 4),
    ("line_size", 52, 4),
    ("blocks_per_segment", 56, 4),
    ("nr_segments", 60, 4),
    ("generation", 64, 8),
    ("generation_start", 72, 8),
    ("tail", 80, 8),
    ("head", 88, 8),
    ("allow_migrate", 96, 4),
    ("force_migrate", 100, 4),
    ("nr_max_batched_migration", 104, 4),
    ("barrier_deadline_ms", 108, 4),
    ("flush_current_buffer_interval", 112, 4),
    ("commit_super_block_interval", 116, 4),
    ("update_interval", 120, 4),
    ("nr_disks", 124, 4),
    ("reserved", 128, 384),
)
DISK = fields(
    ("id", 0, 1),
    ("flags", 1, 1),
    ("migrate_threshold", 2, 1),
    ("reserved", 3, 1),
    ("uuid", 4, 16),
    ("cache_uuid", 20, 16),
    ("size", 36, 8),
    ("attached_at", 44, 8),
    ("stamp", 52, 8),
    ("previous_stamp", 60, 8),
    ("name_length", 68, 2),
    ("path_length", 70, 2),
    ("name", 72, 5),
)
RECORD = fields(
    ("magic", 0, 4),
    ("uuid", 8, 16),
    ("generation", 24, 8),
    ("position", 32, 8),
    ("previous", 40, 8),
    ("previous_checksum", 48, 4),
    ("count", 52, 4),
    ("durable", 56, 8),
    ("tail", 64, 8),
    ("reserved", 72, 56),
    ("line", 128, 4),
    ("line_high", 132, 2),
    ("device_id", 134, 1),
    ("dirty", 135, 1),
    ("checksum", 136, 4),
    ("rest", 2048, 8),
)


def spoilt(old: bytes, rng: random.Random) -> Iterator[bytes]:
    """0, all ones, the low, a middle and the high bit, one more, one less, anything; what equals `old` is left out."""
    bits = 8 * len(old)
    number = int.from_bytes(old, "little")
    wanted = [0, (1 << bits) - 1, number ^ 1, number ^ 1 << bits // 2, number ^ 1 << bits - 1, number + 1, number - 1]
    wanted.append(rng.getrandbits(bits))
    for value in dict.fromkeys(value & (1 << bits) - 1 for value in wanted):
        if value != number:
            yield value.to_bytes(len(old), "little")


def mend_superblock(copy: bytearray) -> None:
    """Give a superblock copy the checksum that fits it, over as many blocks as its length says where these are there."""
    length = int.from_bytes(copy[12:16], "little")
    padded = -(-length // LINE) * LINE
    body = bytearray(copy[: padded if 0 < padded <= len(copy) else LINE])
    body[16:20] = bytes(4)
    struct.pack_into("<I", copy, 16, crc32c(body))


def mend_record(block: bytearray) -> None:
    """Give a record header the checksum that fits it."""
    block[4:8] = bytes(4)
    struct.pack_into("<I", block, 4, crc32c(block))
