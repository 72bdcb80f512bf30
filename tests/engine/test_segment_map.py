# SPDX-License-Identifier: GPL-2.0-or-later
"""What a ring looks like in runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.segment_map import KINDS, MOST_LOOKED_AT, MOST_RUNS, segment_map
from tests.engine.test_ring import BLOCKS, put, ring_of


def test_a_fresh_ring_is_one_run() -> None:
    assert segment_map(ring_of(9), ()) == [(9, "free", 0)]


def test_every_kind_of_slot() -> None:
    ring = ring_of(8, tail=2, segment_id=5)
    ring.closed = False
    for segment_id, blocks in ((1, 3), (2, 3), (3, 2), (4, 3), (5, 1)):
        for block in range(1, 1 + blocks):
            put(ring, segment_id, block, 1, 10 * segment_id + block, dirty=0xFF if segment_id > 1 else 0)
    assert segment_map(ring, {3, 4}) == [
        (1, "clean", 0),
        (1, "dirty", 100),
        (1, "dirty", 67),
        (1, "ram", 100),
        (1, "open", 34),
        (3, "free", 0),
    ]
    ring.closed = True
    assert segment_map(ring, {4})[-2] == (1, "ram", 34)


def test_an_open_segment_without_lines_is_open() -> None:
    ring = ring_of(4, tail=1, segment_id=1)
    ring.closed = False
    assert segment_map(ring, {0}) == [(1, "open", 0), (3, "free", 0)]


def test_a_wrapped_ring_is_told_by_slot() -> None:
    ring = ring_of(4, tail=4, segment_id=6)
    put(ring, 4, 1, 1, 1)
    put(ring, 5, 1, 1, 2)
    assert segment_map(ring, ()) == [(1, "dirty", 34), (2, "free", 0), (1, "dirty", 34)]


@given(st.integers(1, 3 * MOST_LOOKED_AT), st.data())
def test_runs_are_the_whole_ring_and_few(segments: int, data: st.DataObject) -> None:
    ring = ring_of(segments, tail=1, segment_id=segments)
    every = data.draw(st.integers(1, 5))
    first = ring.geometry.first_block
    ring.states.dirty_array[first + 1 :: every * BLOCKS] = 0xFF
    runs = segment_map(ring, ())
    assert sum(run.slots for run in runs) == segments
    assert len(runs) <= MOST_RUNS
    assert {run.kind for run in runs} <= set(KINDS)
    assert all(run.slots > 0 and 0 <= run.dirty <= 100 for run in runs)
    assert any(run.dirty for run in runs)


@pytest.mark.parametrize("segments", [MOST_RUNS, 2 * MOST_RUNS - 1, 1000])
def test_neighbours_are_put_together_where_a_ring_is_scattered(segments: int) -> None:
    ring = ring_of(segments, tail=1, segment_id=segments)
    ring.states.dirty_array[ring.geometry.first_block + 1 :: 2 * BLOCKS] = 0xFF
    ring.closed = False
    runs = segment_map(ring, {segments - 1})
    assert len(runs) <= MOST_RUNS
    assert runs[-1].kind == "open", "what is special is not lost in what is not"
    assert {run.kind for run in runs} == ({"dirty", "free", "open"} if segments == MOST_RUNS else {"dirty", "open"})
