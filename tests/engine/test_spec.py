# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from lcfs.engine.errors import Invalid
from lcfs.engine.spec import check_cache_size, check_disk_size, check_id, check_name, free_id


@pytest.mark.parametrize("number", [1, 2, 254])
def test_ids_are_1_to_254(number: int) -> None:
    assert check_id("disk", number) == number


@pytest.mark.parametrize("number", [0, 255, -1, 1 << 40])
def test_other_ids_are_refused(number: int) -> None:
    with pytest.raises(Invalid, match=rf"cache id {number} is not possible; ids are 1 to 254"):
        check_id("cache", number)


@pytest.mark.parametrize("name", ["a", "x" * 64, "ä" * 32, "two words", "..", "-n", "0"])
def test_names_of_1_to_64_bytes(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "ä" * 33, "a/b", "/", "a\nb", "a\n", "\0", "\x7f", "a\udcff", "x" * 100000])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="is no name for a disk") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [512, 4096 + 512, 1 << 30, 16 << 40])
def test_a_disk_has_whole_sectors(size: int) -> None:
    assert check_disk_size(size) == size


@pytest.mark.parametrize("size", [0, -512, 1, 511, 513, (16 << 40) + 512, 1 << 64])
def test_other_disk_sizes_are_refused(size: int) -> None:
    with pytest.raises(Invalid, match=f"a disk of {size} bytes is not possible"):
        check_disk_size(size)


@pytest.mark.parametrize("size", [2 << 20, (2 << 20) + 1, 16 << 40])
def test_cache_sizes(size: int) -> None:
    assert check_cache_size(size) == size


@pytest.mark.parametrize("size", [0, -1, (2 << 20) - 1, (16 << 40) + 1])
def test_other_cache_sizes_are_refused(size: int) -> None:
    with pytest.raises(Invalid, match=f"a cache of {size} bytes is not possible; give 2 MiB to 16 TiB"):
        check_cache_size(size)


def test_the_lowest_free_id_is_taken() -> None:
    assert free_id("disk", set()) == 1
    assert free_id("disk", {1, 2, 4}) == 3
    assert free_id("disk", set(range(1, 254))) == 254
    with pytest.raises(Invalid, match="all 254 disk ids are used; remove one first"):
        free_id("disk", set(range(1, 255)))
