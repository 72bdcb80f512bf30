# SPDX-License-Identifier: GPL-2.0-or-later
"""Which line is where: flat tables in anonymous memory, whose untouched pages cost nothing.

Per disk a table `line -> cache index` (u32; 0: not cached), per cache the state of each cache index:
line address, disk id, dirty bits, valid bits, CRC32C. dm-lc has a 40-byte metablock and a chained hash
for this, and reaches an eighth of its buckets (B34).

The hot path subscripts memoryviews (a Python int per access); batches use the numpy arrays over the same
memory.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]


def anonymous(length: int) -> mmap.mmap:
    """Zeroed, page-aligned memory that takes room only where it is touched."""
    return mmap.mmap(-1, max(length, 4096), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class LineTable:
    """A disk's `line -> cache index`."""

    def __init__(self, nr_lines: int) -> None:
        memory = anonymous(nr_lines * 4)
        self.index: memoryview = memoryview(memory).cast("I")
        self.array: U32 = np.frombuffer(memory, np.uint32)


class LineStates:
    """What each cache index holds. `dirty` is a subset of `valid`; both are sector masks."""

    def __init__(self, nr_blocks: int) -> None:
        memory = anonymous(nr_blocks * 4)
        self.line: memoryview = memoryview(memory).cast("I")
        self.line_array: U32 = np.frombuffer(memory, np.uint32)
        memory = anonymous(nr_blocks * 4)
        self.crc: memoryview = memoryview(memory).cast("I")
        self.crc_array: U32 = np.frombuffer(memory, np.uint32)
        memory = anonymous(nr_blocks)
        self.device: memoryview = memoryview(memory)
        self.device_array: U8 = np.frombuffer(memory, np.uint8)
        memory = anonymous(nr_blocks)
        self.dirty: memoryview = memoryview(memory)
        self.dirty_array: U8 = np.frombuffer(memory, np.uint8)
        memory = anonymous(nr_blocks)
        self.valid: memoryview = memoryview(memory)
        self.valid_array: U8 = np.frombuffer(memory, np.uint8)
