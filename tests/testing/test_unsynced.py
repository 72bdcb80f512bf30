# SPDX-License-Identifier: GPL-2.0-or-later
import random

from lcfs.testing import ALL, SparseImage, UnsyncedWrite, apply_survivors, keep_all, keep_random, lose_all
from lcfs.testing.unsynced import UnsyncedWrites, whole_sectors


def write(offset: int, data: bytes) -> UnsyncedWrite:
    return UnsyncedWrite(offset, data, applied=1)


def test_a_write_to_a_part_of_a_sector_takes_the_whole_sector_along() -> None:
    image = SparseImage.of(b"o" * 1300)
    assert whole_sectors(500, b"n" * 100, image) == (0, b"o" * 500 + b"n" * 100 + b"o" * 424)
    assert whole_sectors(512, b"n" * 512, image) == (512, b"n" * 512)
    assert whole_sectors(1200, b"n" * 50, image) == (1024, b"o" * 176 + b"n" * 50 + b"o" * 50)


def test_pieces_are_sectors() -> None:
    two = write(512, b"a" * 512 + b"b" * 512)
    assert two.nr_sectors == 2
    assert list(two.pieces(0b01)) == [(512, b"a" * 512)]
    assert list(two.pieces(0b10)) == [(1024, b"b" * 512)]


def test_a_torn_write_leaves_exactly_the_sectors_kept() -> None:
    image = SparseImage.of(b"o" * 4096)
    apply_survivors(image, [write(0, b"n" * 4096)], [0b10000001])
    assert image.read(0, 4096) == b"n" * 512 + b"o" * 3072 + b"n" * 512


def test_losing_the_later_of_two_writes_leaves_the_earlier() -> None:
    image = SparseImage(512)
    apply_survivors(image, [write(0, b"1" * 512), write(0, b"2" * 512)], [ALL, 0])
    assert image.read(0, 512) == b"1" * 512


def test_a_flush_covers_what_returned_before_it_in_the_order_applied() -> None:
    unsynced = UnsyncedWrites()
    first = unsynced.issue(0, b"a")
    second = unsynced.issue(0, b"b")
    pending = unsynced.issue(0, b"c")
    unsynced.returned(second)
    unsynced.returned(first)
    covered = unsynced.covered()
    assert covered == [second, first]
    unsynced.returned(pending)
    unsynced.settled(covered)
    assert unsynced.writes == [pending]


def test_what_a_failed_flush_covered_is_never_covered_again() -> None:
    unsynced = UnsyncedWrites()
    unsynced.returned(unsynced.issue(0, b"a"))
    in_flight = unsynced.issue(1, b"b")
    unsynced.forget()
    unsynced.returned(in_flight)
    assert unsynced.covered() == [in_flight]


def test_random_choices_reach_every_shape_and_replay_from_their_seed() -> None:
    writes = [write(0, bytes(4096)), write(8192, bytes(1024)), write(512, bytes(1024))]
    seen = {tuple(keep_random(random.Random(seed))(writes)) for seed in range(400)}
    assert tuple(lose_all(writes)) in seen
    assert tuple(keep_all(writes)) in seen
    assert any(kept[0] not in (0, ALL) and kept[0] & kept[0] + 1 for kept in seen), "no scattered tear"
    assert any(kept[0] == ALL and kept[1] == 0 for kept in seen), "no loss of a later write alone"
    assert any(kept[0] == 0 and kept[1] not in (0,) for kept in seen), "no loss of an earlier write alone"
    assert keep_random(random.Random(7))(writes) == keep_random(random.Random(7))(writes)


def test_pieces_of_4_kib_are_kept_or_lost_whole() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        if random.Random(seed).randrange(6) != 4:
            continue
        (mask,) = keep_random(rng)([write(4096, bytes(3 * 4096))])
        assert all(mask >> shift & 0xFF in (0, 0xFF) for shift in (0, 8, 16))
