# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of segments: which ids are in use, and questions about their lines. No I/O.

Segments `tail .. segment_id` are in use; each id has its slot for good (`(id - 1) mod nr_segments`), so at
most `nr_segments` ids are in use at a time. `tail` moves only after the superblock that says so is durable
(B02), which makes the slots before it free to be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.geometry import Geometry
from lcfs.engine.lookup import LineStates, LineTable

Indices = npt.NDArray[np.int64]
SCAN_SEGMENTS = 256
"""Segments looked at in one numpy operation."""


class Ring:
    """The segments in use, the state of every line in them, and the disks the lines belong to."""

    def __init__(self, geometry: Geometry, tail: int, segment_id: int) -> None:
        self.geometry = geometry
        self.states = LineStates(geometry.nr_blocks)
        self.devices: list[CachedDevice | None] = [None] * 256
        """By id. As long as a byte can count: an id on disk is any byte."""
        self.tail = tail
        """Id of the oldest segment in use (durable tail)."""
        self.segment_id = segment_id
        """Id of the newest segment; it may still take records while `closed` is false."""
        self.closed = True
        self.checked_tail = 0
        """Id of the segment whose dirty lines were last read and found good, while it was the tail."""
        self.bad_lines: set[int] = set()
        """Cache indices of dirty lines that failed their CRC: they can be neither read nor written back."""

    @property
    def last_closed(self) -> int:
        """Id of the newest segment that takes no more records."""
        return self.segment_id if self.closed else self.segment_id - 1

    def attached(self) -> list[CachedDevice]:
        """The disks, by id."""
        return [device for device in self.devices if device is not None]

    @property
    def nr_free(self) -> int:
        """Segments that can be opened without migrating."""
        return self.geometry.nr_segments - (self.segment_id - self.tail + 1)

    def spans(self, first_id: int, last_id: int) -> Iterator[tuple[int, int]]:
        """Block ranges `[start, end)` that segments `first_id..last_id` take, in order of their ids."""
        blocks = self.geometry.blocks_per_segment
        while first_id <= last_id:
            slot = self.geometry.slot(first_id)
            count = min(last_id - first_id + 1, self.geometry.nr_segments - slot, SCAN_SEGMENTS)
            start = self.geometry.start_block(first_id)
            yield start, start + count * blocks
            first_id += count

    def dirty_indices(self, first_id: int, last_id: int) -> Indices:
        """Cache indices of the dirty lines in these segments, oldest segment first."""
        dirty = self.states.dirty_array
        found = [np.flatnonzero(dirty[start:end]) + start for start, end in self.spans(first_id, last_id)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def first_dirty(self, first_id: int, last_id: int) -> int:
        """The first of these segments with a dirty line; `last_id + 1` when there is none."""
        blocks = self.geometry.blocks_per_segment
        segment_id = first_id
        for start, end in self.spans(first_id, last_id):
            dirty = np.flatnonzero(self.states.dirty_array[start:end])
            if len(dirty):
                return segment_id + int(dirty[0]) // blocks
            segment_id += (end - start) // blocks
        return last_id + 1

    def positions(self, indices: Indices) -> Indices:
        """Log positions of lines, from their cache indices."""
        geometry = self.geometry
        slots, blocks = np.divmod(indices - geometry.first_block, geometry.blocks_per_segment)
        ids = self.segment_id - (geometry.slot(self.segment_id) - slots) % geometry.nr_segments
        result: Indices = ids * geometry.blocks_per_segment + blocks
        return result

    def overtaken_by(self, first_id: int, last_id: int) -> int:
        """Position behind the newest line that replaced a line of these segments; 0 when none was.

        The log must be durable up to there before these segments are given up: until then an old line here
        is the last durable version of its sectors.
        """
        newest = 0
        states = self.states
        for start, end in self.spans(first_id, last_id):
            valid = np.flatnonzero(states.valid_array[start:end]) + start
            for number in np.unique(states.device_array[valid]):
                device = self.devices[number]
                if device is None:
                    continue
                mine = valid[states.device_array[valid] == number]
                current = device.table.array[states.line_array[mine]].astype(np.int64)
                newer = current[(current != mine) & (current != 0)]
                if len(newer):
                    newest = max(newest, int(self.positions(newer).max()) + 1)
        return newest

    def forget_segment(self, segment_id: int) -> None:
        """Unhash the lines of the slot `segment_id` is about to take (dm-lc discard_caches_inseg)."""
        start = self.geometry.start_block(segment_id)
        end = start + self.geometry.blocks_per_segment
        assert not self.states.dirty_array[start:end].any(), "a segment with dirty lines is not free"
        valid = np.flatnonzero(self.states.valid_array[start:end]) + start
        self._unhash(valid)
        if self.bad_lines:
            self.bad_lines = {index for index in self.bad_lines if self.states.dirty[index]}

    def move_lines(self, device: CachedDevice, table: LineTable) -> None:
        """Put in `table`, which is empty, what the table of `device` says of lines that it has room for.

        By way of the lines that are cached, so that the pages of a large table stay untouched.
        """
        states = self.states
        for start, end in self.spans(max(1, self.segment_id - self.geometry.nr_segments + 1), self.segment_id):
            valid = np.flatnonzero(states.valid_array[start:end]) + start
            mine = valid[states.device_array[valid] == device.id]
            lines = states.line_array[mine]
            current = device.table.array[lines] == mine
            table.array[lines[current]] = mine[current]

    def forget_device(self, number: int) -> None:
        """Drop all lines of a disk that leaves the cache, dirty ones included. Its table goes with it."""
        states = self.states
        for start, end in self.spans(max(1, self.segment_id - self.geometry.nr_segments + 1), self.segment_id):
            valid = np.flatnonzero(states.valid_array[start:end]) + start
            mine = valid[states.device_array[valid] == number]
            states.valid_array[mine] = 0
            states.dirty_array[mine] = 0

    def _unhash(self, indices: Indices) -> None:
        states = self.states
        for number in np.unique(states.device_array[indices]):
            device = self.devices[number]
            if device is None:
                continue
            mine = indices[states.device_array[indices] == number]
            table, lines = device.table.array, states.line_array[mine]
            here = table[lines] == mine
            table[lines[here]] = 0
        states.valid_array[indices] = 0
        states.dirty_array[indices] = 0

    def recount(self, number: int) -> int:
        """Dirty lines of a disk, counted anew from the line states (R10)."""
        if self.segment_id == 0:
            return 0
        dirty = self.dirty_indices(max(1, self.segment_id - self.geometry.nr_segments + 1), self.segment_id)
        return int(np.count_nonzero(self.states.device_array[dirty] == number))
