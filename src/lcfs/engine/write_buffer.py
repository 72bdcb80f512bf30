# SPDX-License-Identifier: GPL-2.0-or-later
"""The RAM in which a segment is put together (dm-lc wb_pool: 64 buffers of 1 MiB).

A buffer belongs to one segment from its first line until the segment is closed and all its records are
on the image. Ownership is by object, never by `id mod 64` (B13).
"""

from __future__ import annotations

from collections import deque

import attrs

from lcfs.engine.lookup import anonymous

NR_BUFFERS = 64


@attrs.define(eq=False)
class WriteBuffer:
    """A segment's worth of RAM, laid out as the segment on the image."""

    view: memoryview
    segment_id: int = 0
    slot: int = 0
    closed: bool = False
    """No further record will be added."""
    pending: int = 0
    """Sealed records that are not on the image yet."""


class BufferPool:
    """The buffers that are free, and those not made yet: memory is taken when it is first used."""

    def __init__(self, segment_bytes: int, nr_buffers: int = NR_BUFFERS) -> None:
        self._segment_bytes = segment_bytes
        self._unmade = nr_buffers
        self._free: deque[WriteBuffer] = deque()

    @property
    def available(self) -> int:
        """How many can be taken without waiting."""
        return len(self._free) + self._unmade

    def take_nowait(self) -> WriteBuffer | None:
        """A buffer, its old content still in it; None when all are in use."""
        if self._free:
            return self._free.pop()
        if self._unmade == 0:
            return None
        self._unmade -= 1
        return WriteBuffer(memoryview(anonymous(self._segment_bytes)))

    def put(self, buffer: WriteBuffer) -> None:
        """Give it back."""
        buffer.closed = False
        self._free.append(buffer)
