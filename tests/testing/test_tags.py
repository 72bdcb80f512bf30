# SPDX-License-Identifier: GPL-2.0-or-later
from hypothesis import given
from hypothesis import strategies as st

from lcfs.testing.tags import Origin, describe, origin, tagged


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_a_part_is_a_slice_of_the_whole(offset: int, length: int) -> None:
    assert tagged(3, offset, length, 9) == tagged(3, 0, 10240, 9)[offset : offset + length]


def test_a_sector_names_its_origin() -> None:
    assert origin(tagged(2, 512 * 7, 512, 1 << 40)) == Origin(2, 7, 1 << 40)
    assert origin(bytes(512)) is None
    assert origin(memoryview(tagged(1, 0, 512, 1))[:256].tobytes() + tagged(1, 0, 256, 2)) is None


def test_descriptions() -> None:
    assert describe(bytes(512)) == "zeros"
    assert describe(tagged(1, 512, 512, 3)) == "write 3 to sector 1 of disk 1"
    torn = tagged(1, 512, 256, 3) + tagged(1, 512, 256, 4)
    assert describe(torn) == "a mixture of write 3 to sector 1 of disk 1 and write 4 to sector 1 of disk 1"
    assert describe(b"\xdb" * 512).startswith("foreign bytes dbdb")
