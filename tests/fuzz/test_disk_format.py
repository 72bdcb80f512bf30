# SPDX-License-Identifier: GPL-2.0-or-later
"""The on-disk structs, every field spoilt in every way, with the old checksum and with one made to fit.

With the old checksum nothing is ever taken. With one that fits, somebody wrote it so: what is impossible is refused, what is
possible is believed (BELIEVED says of which fields), and nothing but an error with a sentence may come of either.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import attrs
import pytest

from lcfs.engine.disk_format import SUPERBLOCK_COPIES, Superblock, unpack_record_header, unpack_superblock
from lcfs.engine.errors import LcfsError
from lcfs.engine.geometry import LINE
from lcfs.testing.explore import in_trio
from tests.fuzz.image import IMAGE, LOG, World0, image_of, make_world, try_everything
from tests.fuzz.mutations import DISK, RECORD, SUPERBLOCK, Field, mend_record, mend_superblock, spoilt

TABLE = 512
"""Offset of the disk table in a superblock copy."""

BELIEVED = {
    "superblock": {
        "flags",  # unknown flags are a later version's hints; clean and had_disk are as good as what wrote them
        *("sequence", "uuid", "cache_id", "generation", "generation_start", "tail", "head"),
        *("blocks_per_segment", "nr_segments"),  # a smaller ring fits the image, too
        *("allow_migrate", "force_migrate", "nr_max_batched_migration", "barrier_deadline_ms"),
        *("flush_current_buffer_interval", "commit_super_block_interval", "update_interval"),
        "nr_disks",  # fewer rows than there are
        "length",  # where it still covers the table
        "reserved",
    },
    "disk": {
        *("id", "flags", "migrate_threshold", "reserved", "uuid", "cache_uuid", "size", "attached_at"),
        *("stamp", "previous_stamp", "name_length", "path_length", "name"),
    },
    "record": {
        *("generation", "previous", "previous_checksum", "position", "count", "durable", "tail", "reserved"),
        *("line", "line_high", "device_id", "dirty", "checksum", "rest"),
    },
}
"""Fields of which some other value is taken when the checksum fits it."""


@pytest.fixture(scope="module")
def world() -> World0:
    return in_trio(make_world)


def spoil(image: bytearray, at: int, value: bytes) -> bytearray:
    changed = bytearray(image)
    changed[at : at + len(value)] = value
    return changed


def both_copies(image: bytearray, change: Callable[[bytearray], None]) -> bytearray:
    """The same change in both, so that neither can stand in for the other."""
    changed = bytearray(image)
    for start in SUPERBLOCK_COPIES:
        copy = bytearray(changed[start : start + LINE])
        change(copy)
        changed[start : start + LINE] = copy
    return changed


def superblock_of(image: bytearray, start: int = 0) -> Superblock:
    return unpack_superblock(bytes(image[start : start + LINE]), len(image))


@pytest.mark.parametrize(
    ("what", "base", "field"),
    [("superblock", 0, field) for field in SUPERBLOCK] + [("disk", TABLE, field) for field in DISK],
    ids=lambda value: value.name if isinstance(value, Field) else str(value),
)
def test_a_superblock_field(world: World0, expect_log: object, what: str, base: int, field: Field) -> None:
    rng = random.Random(f"{what} {field.name}")
    image, at = image_of(world), base + field.offset
    ends: Counter[str] = Counter()
    for value in spoilt(bytes(image[at : at + field.size]), rng):
        wrong = spoil(image, at, value)
        with pytest.raises(LcfsError):
            superblock_of(wrong)
        assert in_trio(lambda wrong=wrong: try_everything(world, bytes(wrong), trusted=True)) == "taken", (
            "the other copy is good"
        )

        def change(copy: bytearray, value: bytes = value) -> None:
            copy[at : at + len(value)] = value
            mend_superblock(copy)

        fitting = both_copies(image, change)
        ends[in_trio(lambda fitting=fitting: try_everything(world, bytes(fitting), trusted=False))] += 1
    assert ends["taken"] == 0 or field.name in BELIEVED[what], f"{field.name} was taken with {ends}"


@pytest.mark.parametrize("field", RECORD, ids=lambda field: field.name)
@pytest.mark.parametrize("block", [0, 3, 6])
def test_a_record_field(world: World0, field: Field, block: int) -> None:
    rng = random.Random(f"{field.name} {block}")
    image, start = image_of(world), LOG + block * LINE
    uuid = UUID(bytes=bytes(image[32:48]))
    original = bytearray(image[start : start + LINE])
    is_header = unpack_record_header(original, uuid) is not None
    for value in spoilt(bytes(original[field.offset : field.offset + field.size]), rng):
        header = spoil(original, field.offset, value)
        if is_header:
            assert unpack_record_header(header, uuid) is None, "an old checksum fits nothing else"
        in_trio(lambda header=header: try_everything(world, bytes(spoil(image, start, bytes(header))), trusted=True))
        mend_record(header)
        if is_header and unpack_record_header(header, uuid) is not None:
            assert field.name in BELIEVED["record"]
        in_trio(lambda header=header: try_everything(world, bytes(spoil(image, start, bytes(header))), trusted=False))


IMPOSSIBLE = {
    "a sequence that cannot grow": {"sequence": (1 << 64) - 1},
    "a generation that cannot grow": {"generation": (1 << 64) - 1},
    "a tail beyond every position": {"tail": 1 << 62},
    "a head beyond the ring": {"head": 1 << 40},
    "a generation that begins beyond the ring": {"generation_start": 1 << 40},
    "a generation that begins inside a segment": {"generation_start": 11},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_superblock_is_refused_with_a_sentence(world: World0, case: str) -> None:
    places = {field.name: field for field in SUPERBLOCK}

    def change(copy: bytearray) -> None:
        for name, value in IMPOSSIBLE[case].items():
            field = places[name]
            copy[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")
        mend_superblock(copy)

    image = both_copies(image_of(world), change)
    with pytest.raises(LcfsError, match="superblock with an impossible"):
        superblock_of(image)
    assert in_trio(lambda: try_everything(world, bytes(image), trusted=False)) == "refused"


def test_an_impossible_disk_is_refused_with_a_sentence(world: World0) -> None:
    places = {field.name: TABLE + field.offset for field in DISK}

    def change(copy: bytearray) -> None:
        copy[places["size"] : places["size"] + 8] = (32 << 40).to_bytes(8, "little")
        mend_superblock(copy)

    with pytest.raises(LcfsError, match="impossible id, size"):
        superblock_of(both_copies(image_of(world), change))


def test_what_is_spoilt_was_good(world: World0) -> None:
    image = image_of(world)
    assert attrs.asdict(superblock_of(image))["disks"]
    assert in_trio(lambda: try_everything(world, bytes(image), trusted=True)) == "taken"
    assert world.media[IMAGE].size == len(image)
