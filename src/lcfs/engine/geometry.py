# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes, and the arithmetic between bytes, lines, segments and log positions. No I/O.

A *block* is 4 KiB of the image; its number times 4096 is its byte offset. A cache index is the block
number of a line, so 0 (the superblock's block) never names a line and stands for "not cached".
A *position* in the log is `segment_id * blocks_per_segment + block`: one int that only grows.
"""

from __future__ import annotations

import attrs

from lcfs.engine.errors import Unsuitable

SECTOR = 512
LINE = 4096
LINE_SHIFT = 12
SECTORS_PER_LINE = 8
FULL = 0xFF
"""Dirty bits of a line all of whose eight sectors are dirty."""

BLOCKS_PER_SEGMENT = 256
"""1 MiB: a record header and up to 255 lines (dm-lc NR_CACHES_INSEG)."""
MAX_BLOCKS = 1 << 32
"""A cache index is a u32, so an image is at most 16 TiB (dm-lc cache_nr)."""
MAX_LINES = 1 << 32
"""A line address is a u32 in memory, so a disk is at most 16 TiB."""
SUPERBLOCK_AREA = 1 << 20
"""The first MiB of the image holds the two superblock copies."""
MAX_ID = 254
"""Ids of disks and caches are 1..254; 0 means none (B15, B30)."""


@attrs.frozen
class Geometry:
    """How the image is cut: a superblock area, then a ring of `nr_segments` segments."""

    nr_segments: int
    blocks_per_segment: int = BLOCKS_PER_SEGMENT

    @classmethod
    def for_size(cls, size: int, blocks_per_segment: int = BLOCKS_PER_SEGMENT) -> Geometry:
        """The geometry of an image of `size` bytes; a trailing part of a segment stays unused.

        Raises Unsuitable under 2 MiB (one segment) or above 16 TiB.
        """
        blocks = (size - SUPERBLOCK_AREA) // LINE
        nr_segments = blocks // blocks_per_segment
        if nr_segments < 1:
            raise Unsuitable(
                f"a cache of {size} bytes is too small: it needs a superblock area of 1 MiB and a segment, "
                "so make it 2 MiB or more"
            )
        if size > MAX_BLOCKS * LINE:
            raise Unsuitable(f"a cache of {size} bytes is too large: the limit is 16 TiB")
        return cls(nr_segments, blocks_per_segment)

    @property
    def lines_per_segment(self) -> int:
        """Lines of a segment that is written as one record."""
        return self.blocks_per_segment - 1

    @property
    def segment_bytes(self) -> int:
        """Bytes of a segment."""
        return self.blocks_per_segment * LINE

    @property
    def nr_caches(self) -> int:
        """Nominal capacity in lines (dm-lc nr_caches)."""
        return self.lines_per_segment * self.nr_segments

    @property
    def first_block(self) -> int:
        """Block number at which slot 0 begins."""
        return SUPERBLOCK_AREA // LINE

    @property
    def nr_blocks(self) -> int:
        """Blocks of the used part of the image: cache indices are below this."""
        return self.first_block + self.nr_segments * self.blocks_per_segment

    def slot(self, segment_id: int) -> int:
        """The slot of the ring that segment `segment_id` (1, 2, ...) is written to."""
        return (segment_id - 1) % self.nr_segments

    def lap(self, segment_id: int) -> int:
        """How often the ring was entered when this segment is written: 1 on the first turn."""
        return (segment_id - 1) // self.nr_segments + 1

    def start_block(self, segment_id: int) -> int:
        """Block number of the first block of segment `segment_id`."""
        return self.first_block + self.slot(segment_id) * self.blocks_per_segment

    def position(self, segment_id: int, block: int) -> int:
        """Log position of block `block` of segment `segment_id`."""
        return segment_id * self.blocks_per_segment + block

    def segment_of(self, position: int) -> int:
        """The segment a log position lies in."""
        return position // self.blocks_per_segment

    def offset_of(self, position: int) -> int:
        """Byte offset in the image of a log position."""
        segment_id, block = divmod(position, self.blocks_per_segment)
        return (self.start_block(segment_id) + block) * LINE
