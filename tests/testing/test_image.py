# SPDX-License-Identifier: GPL-2.0-or-later
from hypothesis import given
from hypothesis import strategies as st

from lcfs.testing import SparseImage

SIZE = 5 * 4096 + 512


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(1, 3 * 4096)), max_size=8))
def test_reads_what_a_flat_buffer_would_hold(writes: list[tuple[int, int]]) -> None:
    image = SparseImage(SIZE)
    flat = bytearray(SIZE)
    for i, (offset, length) in enumerate(writes):
        data = bytes([i + 1]) * min(length, SIZE - offset)
        image.write(offset, data)
        flat[offset : offset + len(data)] = data
        assert image.read(offset, len(data)) == data
    assert image.read(0, SIZE) == flat
    assert image == SparseImage.of(bytes(flat))


def test_a_copy_is_independent_and_shares_pages() -> None:
    image = SparseImage.of(b"a" * 4096, 100 << 30)
    copy = image.copy()
    assert copy.pages[0] is image.pages[0]
    copy.write(10, b"b")
    assert image.read(10, 1) == b"a"
    assert copy.read(10, 1) == b"b"


def test_a_huge_image_costs_what_was_written() -> None:
    image = SparseImage(100 << 30)
    image.write((100 << 30) - 3, b"end")
    assert image.allocated == 4096
    assert image.read((100 << 30) - 4, 4) == b"\0end"


def test_zero_pages_equal_absent_ones_and_sizes_count() -> None:
    written = SparseImage.of(bytes(8192))
    assert written == SparseImage(8192)
    assert written != SparseImage(8193)
    assert written != SparseImage.of(b"\0" * 8191 + b"x")


def test_resize_cuts_and_grows_by_zeros() -> None:
    image = SparseImage.of(b"x" * 10000)
    image.resize(5000)
    image.resize(10000)
    assert image.read(0, 10000) == b"x" * 5000 + bytes(5000)
