# SPDX-License-Identifier: GPL-2.0-or-later
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.errors import Unsuitable
from lcfs.engine.geometry import LINE, MAX_BLOCKS, SUPERBLOCK_AREA, Geometry

MIB = 1 << 20
geometries = st.builds(Geometry, st.integers(1, 1 << 24), st.sampled_from([2, 4, 8, 64, 256]))


@pytest.mark.parametrize(
    ("size", "segments"),
    [(2 * MIB, 1), (3 * MIB, 2), (3 * MIB - 1, 1), (256 * MIB, 255), (2 * MIB + 4096, 1), (16 << 40, (16 << 20) - 1)],
)
def test_segments_of_a_size_are_those_of_2013(size: int, segments: int) -> None:
    geometry = Geometry.for_size(size)
    assert geometry.nr_segments == segments == size // MIB - 1
    assert geometry.nr_caches == 255 * segments
    assert geometry.segment_bytes == MIB


@pytest.mark.parametrize("size", [0, 1, SUPERBLOCK_AREA, 2 * MIB - 1])
def test_an_image_without_room_for_a_segment_is_refused(size: int) -> None:
    with pytest.raises(Unsuitable, match=rf"{size} bytes is too small.* 2 MiB or more") as caught:
        Geometry.for_size(size)
    assert caught.value.errno == errno.EINVAL


def test_an_image_whose_blocks_exceed_an_index_is_refused() -> None:
    with pytest.raises(Unsuitable, match="16 TiB"):
        Geometry.for_size((16 << 40) + MIB)
    assert Geometry.for_size(16 << 40).nr_blocks <= MAX_BLOCKS


@given(st.integers(SUPERBLOCK_AREA + 8 * LINE, 1 << 44), st.sampled_from([2, 4, 8]))
def test_the_segments_fit_the_image_and_no_further_one_would(size: int, blocks: int) -> None:
    geometry = Geometry.for_size(size, blocks)
    used = geometry.nr_blocks * LINE
    assert used <= size < used + geometry.segment_bytes


@given(geometries, st.integers(1, 1 << 40))
def test_an_id_has_one_slot_and_comes_back_to_it_a_lap_later(geometry: Geometry, segment_id: int) -> None:
    slot, lap = geometry.slot(segment_id), geometry.lap(segment_id)
    assert 0 <= slot < geometry.nr_segments
    assert (lap - 1) * geometry.nr_segments + slot + 1 == segment_id
    later = segment_id + geometry.nr_segments
    assert geometry.slot(later) == slot
    assert geometry.lap(later) == lap + 1
    assert geometry.start_block(later) == geometry.start_block(segment_id)


@given(geometries, st.integers(1, 1 << 40), st.data())
def test_a_position_names_one_block_of_the_image(geometry: Geometry, segment_id: int, data: st.DataObject) -> None:
    block = data.draw(st.integers(0, geometry.blocks_per_segment - 1))
    position = geometry.position(segment_id, block)
    assert geometry.segment_of(position) == segment_id
    offset = geometry.offset_of(position)
    assert offset == (geometry.start_block(segment_id) + block) * LINE
    assert SUPERBLOCK_AREA <= offset < geometry.nr_blocks * LINE
    assert geometry.position(segment_id, geometry.blocks_per_segment) == geometry.position(segment_id + 1, 0)


def test_the_first_segment_lies_behind_the_superblock_area() -> None:
    geometry = Geometry(3)
    assert geometry.start_block(1) * LINE == SUPERBLOCK_AREA
    assert [geometry.slot(segment_id) for segment_id in (1, 2, 3, 4)] == [0, 1, 2, 0]
    assert [geometry.lap(segment_id) for segment_id in (1, 3, 4, 7)] == [1, 1, 2, 3]
    assert geometry.lines_per_segment == 255
