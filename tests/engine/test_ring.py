# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.geometry import LINE, Geometry
from lcfs.engine.lookup import LineTable
from lcfs.engine.ring import SCAN_SEGMENTS, Ring

BLOCKS = 4


def ring_of(segments: int = 4, tail: int = 1, segment_id: int = 0, disks: int = 2) -> Ring:
    ring = Ring(Geometry(segments, BLOCKS), tail, segment_id)
    for number in range(1, disks + 1):
        device = CachedDevice(number, 100 * LINE, None)
        device.table = LineTable(device.nr_lines)
        ring.devices[number] = device
    return ring


def put(ring: Ring, segment_id: int, block: int, disk: int, line: int, *, dirty: int = 0xFF) -> int:
    """A line at a block of a segment, as the write path and recovery put it there."""
    index = ring.geometry.start_block(segment_id) + block
    device = ring.devices[disk]
    assert device is not None
    old = device.table.index[line]
    if old:
        ring.states.dirty[old] = 0
    device.table.index[line] = index
    ring.states.line[index] = line
    ring.states.device[index] = disk
    ring.states.dirty[index] = dirty
    ring.states.valid[index] = 0xFF
    return index


def test_a_fresh_ring_is_all_free() -> None:
    ring = ring_of()
    assert ring.nr_free == 4
    assert ring.last_closed == 0
    assert [device.id for device in ring.attached()] == [1, 2]
    assert len(ring.dirty_indices(1, 0)) == 0
    assert ring.recount(1) == 0


def test_segments_in_use_are_not_free_and_the_open_one_not_closed() -> None:
    ring = ring_of(tail=3, segment_id=5)
    assert ring.nr_free == 1
    assert ring.last_closed == 5
    ring.closed = False
    assert ring.last_closed == 4


@given(st.integers(1, 1000), st.integers(1, 3000), st.data())
def test_spans_are_the_segments_in_order(segments: int, first: int, data: st.DataObject) -> None:
    ring = Ring(Geometry(segments, 2), 1, 0)
    last = data.draw(st.integers(first - 1, first + segments - 1))
    spans = list(ring.spans(first, last))
    expected = [ring.geometry.start_block(segment_id) for segment_id in range(first, last + 1)]
    assert [block for start, end in spans for block in range(start, end, 2)] == expected
    assert all(0 < end - start <= 2 * SCAN_SEGMENTS for start, end in spans)


def test_dirty_lines_come_oldest_first_also_around_the_end_of_the_ring() -> None:
    ring = ring_of(tail=3, segment_id=6)
    newest = put(ring, 6, 1, 1, 60)
    oldest = put(ring, 3, 2, 1, 30)
    middle = put(ring, 4, 3, 2, 40)
    assert newest < oldest < middle
    put(ring, 5, 1, 1, 50, dirty=0)
    assert ring.dirty_indices(3, 6).tolist() == [oldest, middle, newest]
    assert ring.dirty_indices(4, 5).tolist() == [middle]
    assert ring.positions(np.array([oldest, middle, newest])).tolist() == [3 * 4 + 2, 4 * 4 + 3, 6 * 4 + 1]


def test_the_first_segment_with_a_dirty_line() -> None:
    ring = ring_of(tail=3, segment_id=6)
    assert ring.first_dirty(3, 6) == 7
    put(ring, 5, 3, 1, 1, dirty=1)
    assert ring.first_dirty(3, 6) == 5
    assert ring.first_dirty(3, 4) == 5
    put(ring, 3, 1, 1, 2)
    assert ring.first_dirty(3, 6) == 3


def test_the_newest_line_that_overtook_one_of_a_segment() -> None:
    ring = ring_of(tail=1, segment_id=4)
    put(ring, 1, 1, 1, 10)
    put(ring, 1, 2, 1, 11)
    put(ring, 1, 3, 2, 10)
    assert ring.overtaken_by(1, 1) == 0
    put(ring, 2, 1, 1, 10)
    put(ring, 4, 2, 2, 10)
    put(ring, 3, 1, 1, 99)
    assert ring.overtaken_by(1, 1) == ring.geometry.position(4, 2) + 1
    assert ring.overtaken_by(2, 3) == 0


def test_a_segment_that_is_taken_again_forgets_its_lines() -> None:
    ring = ring_of(tail=2, segment_id=4)
    gone = put(ring, 1, 1, 1, 10, dirty=0)
    overtaken = put(ring, 1, 2, 1, 11)
    newer = put(ring, 2, 1, 1, 11)
    ring.bad_lines = {overtaken, newer}
    ring.forget_segment(5)
    device = ring.devices[1]
    assert device is not None
    assert device.table.index[10] == 0
    assert device.table.index[11] == newer
    assert ring.states.valid[gone] == ring.states.valid[overtaken] == 0
    assert ring.states.valid[newer] == 0xFF
    assert ring.bad_lines == {newer}


def test_a_segment_with_a_dirty_line_is_never_taken() -> None:
    ring = ring_of(tail=1, segment_id=4)
    put(ring, 1, 1, 1, 10)
    with pytest.raises(AssertionError, match="not free"):
        ring.forget_segment(5)


def test_a_segment_with_lines_of_a_disk_that_left_is_taken() -> None:
    ring = ring_of(tail=2, segment_id=4)
    index = put(ring, 1, 1, 2, 10, dirty=0)
    ring.devices[2] = None
    ring.forget_segment(5)
    assert not ring.states.valid[index]


def test_a_disk_that_leaves_takes_its_lines_along_and_no_others() -> None:
    ring = ring_of(tail=2, segment_id=5)
    lines = [put(ring, 2, 1, 1, 1), put(ring, 3, 1, 1, 2, dirty=0), put(ring, 5, 2, 1, 3)]
    other = put(ring, 3, 2, 2, 1)
    assert ring.recount(1) == 2
    ring.forget_device(1)
    stayer = ring.devices[2]
    assert stayer is not None
    assert not any(ring.states.dirty[index] | ring.states.valid[index] for index in lines)
    assert stayer.table.index[1] == other
    assert (ring.recount(1), ring.recount(2)) == (0, 1)


@given(st.lists(st.tuples(st.integers(3, 6), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99)), max_size=20))
def test_recount_counts_each_dirty_line_once(writes: list[tuple[int, int, int, int]]) -> None:
    ring = ring_of(tail=3, segment_id=6)
    taken: set[int] = set()
    expected: set[tuple[int, int]] = set()
    for segment_id, block, disk, line in writes:
        index = ring.geometry.start_block(segment_id) + block
        if index not in taken:
            taken.add(put(ring, segment_id, block, disk, line))
            expected.add((disk, line))
    for disk in (1, 2):
        assert ring.recount(disk) == sum(owner == disk for owner, _ in expected)
