# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.disk_format import DiskEntry, Superblock
from lcfs.engine.disk_table import merge_tables
from lcfs.engine.errors import AlreadyThere
from lcfs.engine.geometry import Geometry

ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))


def image(uuid: UUID, *disks: DiskEntry) -> Superblock:
    return Superblock(uuid=uuid, geometry=Geometry(1), cache_id=1, disks=disks)


def disk(number: int, cache: UUID | None = None, *, uuid: UUID | None = None, path: str = "") -> DiskEntry:
    return DiskEntry(
        id=number, uuid=uuid or UUID(int=100 + number), size=4096, path=path or f"/disk{number}", name="n", cache_uuid=cache
    )


def test_no_image_and_empty_images_have_no_disk() -> None:
    assert merge_tables([]) == []
    assert merge_tables([image(ONE), image(TWO)]) == []


def test_its_own_a_cache_says_what_is_attached_to_it() -> None:
    """ITS OWN: the row of the cache concerned counts, whatever another image remembers of the disk."""
    mine = attrs.evolve(disk(1, TWO), attached_at=900, stamp=5)
    stale = attrs.evolve(disk(1, TWO), attached_at=10, stamp=4)
    assert merge_tables([image(ONE, stale), image(TWO, mine)]) == [mine]
    assert merge_tables([image(TWO, mine), image(ONE, stale)]) == [mine]
    detached_there = attrs.evolve(stale, cache_uuid=None)
    assert merge_tables([image(ONE, detached_there), image(TWO, mine)]) == [mine]


def test_gone_a_mounted_cache_that_does_not_name_the_disk_has_let_it_go() -> None:
    """GONE: only another image still says that the disk is attached to TWO."""
    remembered = disk(1, TWO)
    assert merge_tables([image(ONE, remembered), image(TWO)]) == [attrs.evolve(remembered, cache_uuid=None)]


def test_elsewhere_a_cache_that_is_not_mounted_may_hold_the_newest_data() -> None:
    """ELSEWHERE: the row stays as it is, so that the disk is not used without its cache."""
    away = disk(1, THREE)
    assert merge_tables([image(ONE, away), image(TWO)]) == [away]


def test_without_a_disk_nobody_claims_has_no_cache() -> None:
    """WITHOUT: detached disks are remembered by the first image."""
    alone = disk(1)
    assert merge_tables([image(ONE, alone)]) == [alone]


def test_rows_are_sorted_by_id_and_merged_by_uuid() -> None:
    merged = merge_tables([image(ONE, disk(3), disk(1, ONE), disk(2, TWO)), image(TWO, disk(2, TWO), disk(9, TWO))])
    assert [row.id for row in merged] == [1, 2, 3, 9]


def test_two_disks_of_one_id_are_refused() -> None:
    one, other = disk(4, ONE, path="/a"), disk(4, TWO, uuid=UUID(int=7), path="/b")
    with pytest.raises(AlreadyThere, match=r"two disks have the id 4: /a and /b; mount their caches apart and remove one"):
        merge_tables([image(ONE, one), image(TWO, other)])


def test_a_disk_that_two_caches_claim_is_taken_once() -> None:
    """A copy of an image that was later told otherwise: the disk appears once, attached to one of the claimants."""
    merged = merge_tables([image(ONE, disk(1, ONE)), image(TWO, disk(1, TWO))])
    assert len(merged) == 1
    assert merged[0].cache_uuid in (ONE, TWO)


claims = st.sampled_from([None, ONE, TWO, THREE])


@given(st.lists(st.tuples(claims, claims), min_size=1, max_size=5))
def test_every_combination_has_one_verdict(rows: list[tuple[UUID | None, UUID | None]]) -> None:
    """What image ONE and image TWO say of the same disks, in all combinations."""
    first = image(ONE, *(disk(number, one) for number, (one, _) in enumerate(rows, 1)))
    second = image(TWO, *(disk(number, two) for number, (_, two) in enumerate(rows, 1)))
    merged = merge_tables([first, second])
    assert [row.id for row in merged] == list(range(1, len(rows) + 1))
    for row, (one, two) in zip(merged, rows, strict=True):
        claimants = {cache for cache, said in ((ONE, one), (TWO, two)) if said == cache}
        if claimants:
            assert row.cache_uuid in claimants
        elif THREE in (one, two):
            assert row.cache_uuid in (None, THREE)
        else:
            assert row.cache_uuid is None


def test_the_first_image_decides_about_what_nobody_claims() -> None:
    elsewhere, without = disk(1, THREE), disk(1)
    assert merge_tables([image(ONE, elsewhere), image(TWO, without)]) == [elsewhere]
    assert merge_tables([image(ONE, without), image(TWO, elsewhere)]) == [without]
