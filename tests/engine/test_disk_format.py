# SPDX-License-Identifier: GPL-2.0-or-later
"""The structs of the on-disk format. Offsets are written out here: they are the format, whatever the code says."""

from __future__ import annotations

import errno
import random
import struct
from uuid import UUID

import attrs
import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.disk_format import (
    ENTRY,
    LAST_SEGMENT,
    MOST,
    SUPERBLOCK_COPIES,
    SUPERBLOCK_MAX,
    DiskEntry,
    RecordHeader,
    Superblock,
    pack_record_header,
    pack_superblock,
    unpack_record_header,
    unpack_superblock,
)
from lcfs.engine.errors import Damaged, NewerVersion, NoSpace, NotACacheImage
from lcfs.engine.geometry import LINE, MAX_ID, SUPERBLOCK_AREA, Geometry
from lcfs.engine.tunables import TUNABLES, defaults

UUID_1 = UUID("00112233-4455-6677-8899-aabbccddeeff")
UUID_2 = UUID("ffeeddcc-bbaa-9988-7766-554433221100")
IMAGE_SIZE = 64 << 20
U64 = (1 << 64) - 1

SUPERBLOCK_FIELDS = {
    "magic": (0, 8),
    "version": (8, 4),
    "length": (12, 4),
    "crc": (16, 4),
    "flags": (20, 4),
    "sequence": (24, 8),
    "uuid": (32, 16),
    "cache_id": (48, 4),
    "line": (52, 4),
    "blocks_per_segment": (56, 4),
    "nr_segments": (60, 4),
    "generation": (64, 8),
    "generation_start": (72, 8),
    "tail": (80, 8),
    "head": (88, 8),
    "allow_migrate": (96, 4),
    "force_migrate": (100, 4),
    "nr_max_batched_migration": (104, 4),
    "barrier_deadline_ms": (108, 4),
    "flush_current_buffer_interval": (112, 4),
    "commit_super_block_interval": (116, 4),
    "update_interval": (120, 4),
    "nr_disks": (124, 4),
}
DISK_FIELDS = {
    "id": (0, 1),
    "disk_flags": (1, 1),
    "migrate_threshold": (2, 1),
    "reserved": (3, 1),
    "disk_uuid": (4, 16),
    "cache_uuid": (20, 16),
    "size": (36, 8),
    "attached_at": (44, 8),
    "stamp": (52, 8),
    "previous_stamp": (60, 8),
    "name_length": (68, 2),
    "path_length": (70, 2),
}
RECORD_FIELDS = {
    "magic": (0, 4),
    "crc": (4, 4),
    "uuid": (8, 16),
    "generation": (24, 8),
    "position": (32, 8),
    "previous": (40, 8),
    "previous_crc": (48, 4),
    "count": (52, 4),
    "durable": (56, 8),
    "tail": (64, 8),
}

DISK = DiskEntry(
    id=7,
    uuid=UUID_2,
    size=1 << 30,
    path="/srv/ä/disk \udcff.img",
    name="bücher",
    cache_uuid=UUID_1,
    attached_at=513,
    stamp=0x1122334455667788,
    previous_stamp=3,
    migrate_threshold=55,
)
SUPERBLOCK = Superblock(
    uuid=UUID_1,
    geometry=Geometry(63),
    cache_id=9,
    sequence=5,
    generation=4,
    generation_start=1536,
    tail=3,
    head=1300,
    clean=True,
    tunables={**defaults(), "barrier_deadline_ms": 17},
    disks=(DISK, attrs.evolve(DISK, id=8, uuid=UUID_1, cache_uuid=None, name="n", path="/")),
    had_disk=True,
)


def put(packed: bytes, offset: int, size: int, value: int) -> bytes:
    return packed[:offset] + value.to_bytes(size, "little") + packed[offset + size :]


def get(packed: bytes, offset: int, size: int) -> int:
    return int.from_bytes(packed[offset : offset + size], "little")


def resealed(packed: bytes, crc_at: int = 16) -> bytes:
    """With a checksum that fits: what a bug or an attacker writes, not what a medium does."""
    return put(packed, crc_at, 4, crc32c(put(packed, crc_at, 4, 0)))


def variants(value: int, size: int) -> list[int]:
    ones = (1 << 8 * size) - 1
    return [0, ones, (value + 1) & ones, (value - 1) & ones, ones >> 1, 1 << 8 * size - 1]


# Superblock

names = st.text(st.characters(codec="utf-8", exclude_characters="/\n"), min_size=1, max_size=16)
paths = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
u64 = st.integers(0, U64)
disk_entries = st.builds(
    DiskEntry,
    id=st.integers(1, MAX_ID),
    uuid=st.uuids(),
    size=st.integers(1, 1 << 20).map(lambda sectors: sectors * 512),
    path=paths,
    name=names,
    cache_uuid=st.none() | st.uuids(),
    attached_at=st.integers(0, LAST_SEGMENT * 256),
    stamp=u64,
    previous_stamp=u64,
    migrate_threshold=st.integers(0, 100),
)


@st.composite
def superblocks(draw: st.DrawFn) -> Superblock:
    """Any that lcfs could have come to: head and generation_start lie in the ring that begins with the tail."""
    geometry = draw(st.builds(Geometry, st.integers(1, 60), st.sampled_from([2, 8, 256])))
    tail = draw(st.integers(1, LAST_SEGMENT))
    end = tail + geometry.nr_segments
    return Superblock(
        uuid=draw(st.uuids()),
        geometry=geometry,
        cache_id=draw(st.integers(1, MAX_ID)),
        sequence=draw(st.integers(0, MOST - 1)),
        generation=draw(st.integers(0, MOST - 1)),
        generation_start=geometry.position(draw(st.integers(0, end)), 0),
        tail=tail,
        head=draw(st.integers(0, geometry.position(end, 0))),
        clean=draw(st.booleans()),
        tunables={name: draw(st.integers(row.low, row.high)) for name, row in TUNABLES.items()},
        disks=tuple(draw(st.lists(disk_entries, max_size=12, unique_by=lambda disk: disk.id))),
        had_disk=draw(st.booleans()),
    )


@given(superblocks())
def test_a_superblock_comes_back_as_it_was(superblock: Superblock) -> None:
    packed = pack_superblock(superblock)
    assert len(packed) % LINE == 0
    assert unpack_superblock(packed, IMAGE_SIZE) == superblock
    assert unpack_superblock(packed + b"\xff" * LINE, IMAGE_SIZE) == superblock


def test_the_fields_lie_where_the_format_says() -> None:
    packed = pack_superblock(SUPERBLOCK)
    found = {name: get(packed, *place) for name, place in SUPERBLOCK_FIELDS.items()}
    assert packed[:8] == b"lcfs\0sb\n"
    assert packed[32:48] == UUID_1.bytes
    expected = {"version": 1, "flags": 3, "sequence": 5, "cache_id": 9, "line": 4096, "blocks_per_segment": 256}
    expected |= {"nr_segments": 63, "generation": 4, "generation_start": 1536, "tail": 3, "head": 1300, "nr_disks": 2}
    expected |= {"barrier_deadline_ms": 17, "update_interval": 1, "nr_max_batched_migration": 32, "allow_migrate": 0}
    assert expected.items() <= found.items()
    assert found["crc"] == crc32c(put(packed, 16, 4, 0))
    assert packed[128:512] == bytes(384)

    row = packed[512:]
    assert {name: get(row, *place) for name, place in DISK_FIELDS.items() if "uuid" not in name} == {
        "id": 7,
        "disk_flags": 1,
        "migrate_threshold": 55,
        "reserved": 0,
        "size": 1 << 30,
        "attached_at": 513,
        "stamp": 0x1122334455667788,
        "previous_stamp": 3,
        "name_length": 7,
        "path_length": 18,
    }
    assert row[4:20] == UUID_2.bytes
    assert row[20:36] == UUID_1.bytes
    assert row[72:79] == "bücher".encode()
    assert row[79:97] == b"/srv/\xc3\xa4/disk \xff.img"
    assert row[97] == 8
    assert row[98] == 0
    assert row[97 + 20 : 97 + 36] == bytes(16)
    length = 512 + 72 + 7 + 18 + 72 + 1 + 1
    assert found["length"] == length
    assert not any(packed[length:])


def test_a_missing_tunable_is_stored_as_its_default() -> None:
    stored = unpack_superblock(pack_superblock(attrs.evolve(SUPERBLOCK, tunables={})), IMAGE_SIZE)
    assert stored.tunables == defaults()


@pytest.mark.parametrize("copy", [b"", b"lcfs", bytes(LINE), b"\xff" * LINE, b"lcfs\0sb\r" + bytes(LINE), b"QFI\xfb" * 1024])
def test_what_has_no_magic_is_no_cache_image(copy: bytes) -> None:
    with pytest.raises(NotACacheImage):
        unpack_superblock(copy, IMAGE_SIZE)


@pytest.mark.parametrize("version", [2, 3, 1 << 31, (1 << 32) - 1])
def test_a_newer_version_is_named(version: int) -> None:
    packed = resealed(put(pack_superblock(SUPERBLOCK), *SUPERBLOCK_FIELDS["version"], version))
    with pytest.raises(NewerVersion, match=f"version {version} is newer than 1.* use a newer lcfs") as caught:
        unpack_superblock(packed, IMAGE_SIZE)
    assert caught.value.errno == errno.EINVAL


def test_version_0_never_was() -> None:
    packed = resealed(put(pack_superblock(SUPERBLOCK), *SUPERBLOCK_FIELDS["version"], 0))
    with pytest.raises(Damaged):
        unpack_superblock(packed, IMAGE_SIZE)


def test_any_flipped_bit_is_noticed() -> None:
    packed = pack_superblock(SUPERBLOCK)
    rng = random.Random(1)
    for bit in [*range(8 * 1024), *rng.sample(range(8 * 1024, 8 * len(packed)), 1000)]:
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((NotACacheImage, NewerVersion, Damaged)):
            unpack_superblock(bytes(flipped), IMAGE_SIZE)


@given(st.data())
def test_a_torn_copy_is_noticed(data: st.DataObject) -> None:
    """Any mixture of the sectors of two commits that is neither of them."""
    many = tuple(attrs.evolve(DISK, id=number, uuid=UUID(int=number)) for number in range(1, 60))
    old = pack_superblock(attrs.evolve(SUPERBLOCK, disks=many, sequence=8))
    new = pack_superblock(attrs.evolve(SUPERBLOCK, disks=many[1:], sequence=10, tail=4))
    assert len(old) == len(new) > LINE
    mask = data.draw(st.integers(1, (1 << len(old) // 512) - 2))
    torn = b"".join(
        (new if mask >> sector & 1 else old)[sector * 512 : (sector + 1) * 512] for sector in range(len(old) // 512)
    )
    if torn in (old, new):
        unpack_superblock(torn, IMAGE_SIZE)
        return
    with pytest.raises(Damaged):
        unpack_superblock(torn, IMAGE_SIZE)


def test_a_copy_cut_off_is_noticed() -> None:
    packed = pack_superblock(attrs.evolve(SUPERBLOCK, disks=(attrs.evolve(DISK, path="/" * 4000),)))
    assert len(packed) == 2 * LINE
    for length in (LINE, LINE + 1, 2 * LINE - 1, 512, 128, 20):
        with pytest.raises(Damaged):
            unpack_superblock(packed[:length], IMAGE_SIZE)


def field_cases() -> list[tuple[str, int, int, int]]:
    packed = pack_superblock(SUPERBLOCK)
    places = {**SUPERBLOCK_FIELDS, **{name: (512 + offset, size) for name, (offset, size) in DISK_FIELDS.items()}}
    places |= {f"second {name}": (609 + offset, size) for name, (offset, size) in DISK_FIELDS.items()}
    return [
        (name, offset, size, value)
        for name, (offset, size) in places.items()
        for value in sorted(set(variants(get(packed, offset, size), size)))
    ]


@pytest.mark.parametrize(("name", "offset", "size", "value"), field_cases())
def test_no_value_of_a_field_gets_past_the_checks(name: str, offset: int, size: int, value: int) -> None:
    packed = pack_superblock(SUPERBLOCK)
    changed = put(packed, offset, size, value)
    if changed == packed:
        return
    with pytest.raises((NotACacheImage, NewerVersion, Damaged)):
        unpack_superblock(changed, IMAGE_SIZE)
    # with a checksum that fits it is either refused, or a superblock that can be written again as it is
    try:
        superblock = unpack_superblock(resealed(changed), IMAGE_SIZE)
    except (NotACacheImage, NewerVersion, Damaged):
        return
    assert unpack_superblock(pack_superblock(superblock), IMAGE_SIZE) == superblock
    assert superblock.geometry.nr_blocks * LINE <= IMAGE_SIZE
    for disk in superblock.disks:
        assert 1 <= disk.id <= MAX_ID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_id", 0),
        ("cache_id", 255),
        ("line", 512),
        ("blocks_per_segment", 0),
        ("blocks_per_segment", 1),
        ("blocks_per_segment", 257),
        ("nr_segments", 0),
        ("nr_segments", 64),
        ("tail", 0),
        ("nr_disks", 3),
        ("nr_disks", (1 << 32) - 1),
        ("length", 511),
        ("length", SUPERBLOCK_MAX + 1),
        ("barrier_deadline_ms", 0),
        ("nr_max_batched_migration", 257),
        ("update_interval", 3601),
        ("allow_migrate", 2),
    ],
)
def test_impossible_values_are_damage_though_the_checksum_fits(name: str, value: int) -> None:
    with pytest.raises(Damaged):
        unpack_superblock(resealed(put(pack_superblock(SUPERBLOCK), *SUPERBLOCK_FIELDS[name], value)), IMAGE_SIZE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 0),
        ("id", 255),
        ("id", 8),
        ("size", 0),
        ("size", 511),
        ("size", U64),
        ("migrate_threshold", 101),
        ("name_length", 65),
        ("name_length", 6),
        ("path_length", 4096),
        ("path_length", 0xFFFF),
    ],
)
def test_impossible_disks_are_damage_though_the_checksum_fits(name: str, value: int) -> None:
    offset, size = DISK_FIELDS[name]
    with pytest.raises(Damaged):
        unpack_superblock(resealed(put(pack_superblock(SUPERBLOCK), 512 + offset, size, value)), IMAGE_SIZE)


def test_a_name_that_is_not_text_is_damage() -> None:
    packed = bytearray(pack_superblock(SUPERBLOCK))
    packed[512 + 72] = 0xFF
    with pytest.raises(Damaged, match="not text"):
        unpack_superblock(resealed(bytes(packed)), IMAGE_SIZE)


@pytest.mark.parametrize("missing", [1, 4096, 1 << 20])
def test_an_image_shorter_than_it_was_made_is_truncated(missing: int) -> None:
    packed = pack_superblock(SUPERBLOCK)
    assert unpack_superblock(packed, IMAGE_SIZE + 12345).geometry.nr_segments == 63
    with pytest.raises(Damaged, match=f"was made with {IMAGE_SIZE} bytes and has {IMAGE_SIZE - missing}: it was truncated"):
        unpack_superblock(packed, IMAGE_SIZE - missing)


@given(st.binary(max_size=2 * LINE), st.integers(0, LINE))
def test_random_bytes_behind_the_magic_are_refused(noise: bytes, length: int) -> None:
    head = struct.pack("<8sII", b"lcfs\0sb\n", 1, length)
    with pytest.raises(Damaged):
        unpack_superblock((head + noise).ljust(LINE, b"\0"), IMAGE_SIZE)


def test_the_copies_do_not_touch_and_a_table_of_any_size_fits_or_is_refused() -> None:
    assert SUPERBLOCK_COPIES == (0, SUPERBLOCK_AREA // 2)
    rows = tuple(attrs.evolve(DISK, id=number, path="/" * 4000) for number in range(1, MAX_ID + 1))
    fitting = max(count for count in range(len(rows)) if 512 + count * (72 + 7 + 4000) <= SUPERBLOCK_MAX)
    packed = pack_superblock(attrs.evolve(SUPERBLOCK, disks=rows[:fitting]))
    assert len(packed) <= SUPERBLOCK_MAX
    assert len(unpack_superblock(packed, IMAGE_SIZE).disks) == fitting
    with pytest.raises(NoSpace, match="use shorter paths, or remove disks") as caught:
        pack_superblock(attrs.evolve(SUPERBLOCK, disks=rows[: fitting + 1]))
    assert caught.value.errno == errno.ENOSPC
    short = tuple(attrs.evolve(DISK, id=number, path="/" + "d" * 1900) for number in range(1, MAX_ID + 1))
    assert len(unpack_superblock(pack_superblock(attrs.evolve(SUPERBLOCK, disks=short)), IMAGE_SIZE).disks) == MAX_ID


# Record headers


def entries_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    entries = np.zeros(count, ENTRY)
    entries["line"] = rng.integers(0, 1 << 32, count)
    entries["line_high"] = rng.integers(0, 1 << 16, count)
    entries["device_id"] = rng.integers(0, 256, count)
    entries["dirty"] = rng.integers(0, 256, count)
    entries["crc"] = rng.integers(0, 1 << 32, count)
    return entries


def header_of(count: int, **fields: int) -> RecordHeader:
    values = {"generation": 4, "position": 515, "previous": 512, "previous_crc": 0xDEADBEEF, "durable": 300, "tail": 2}
    return RecordHeader(uuid=UUID_1, entries=entries_of(count), **{**values, **fields})


def packed_header(header: RecordHeader) -> tuple[bytes, int]:
    block = bytearray(b"\xa5" * LINE)
    crc = pack_record_header(header, memoryview(block))
    return bytes(block), crc


@pytest.mark.parametrize("count", [1, 2, 35, 254, 255])
def test_a_record_header_comes_back_as_it_was(count: int) -> None:
    header = header_of(count, generation=U64, position=U64, previous=U64, durable=U64, tail=U64, previous_crc=0xFFFFFFFF)
    block, crc = packed_header(header)
    found = unpack_record_header(block, UUID_1)
    assert found is not None
    for name in ("uuid", "generation", "position", "previous", "previous_crc", "durable", "tail"):
        assert getattr(found, name) == getattr(header, name)
    assert (found.entries == header.entries).all()
    assert found.count == count
    assert found.end == header.position + 1 + count
    assert found.crc == crc


def test_the_fields_of_a_record_lie_where_the_format_says() -> None:
    entries = np.array([(0x44332211, 0x6655, 0x77, 0x88, 0xCCBBAA99)], ENTRY)
    block, crc = packed_header(attrs.evolve(header_of(1), entries=entries))
    assert block[:4] == b"lcR\n"
    assert block[8:24] == UUID_1.bytes
    assert {name: get(block, *place) for name, place in RECORD_FIELDS.items() if name not in ("magic", "uuid")} == {
        "crc": crc,
        "generation": 4,
        "position": 515,
        "previous": 512,
        "previous_crc": 0xDEADBEEF,
        "count": 1,
        "durable": 300,
        "tail": 2,
    }
    assert crc == crc32c(put(block, 4, 4, 0))
    assert block[128:140] == bytes.fromhex("112233445566778899aabbcc")


@pytest.mark.parametrize("count", [1, 7, 255])
def test_nothing_that_was_in_the_block_before_is_left_there(count: int) -> None:
    block, _ = packed_header(header_of(count))
    assert not any(block[72:128])
    assert not any(block[128 + 12 * count :])


def test_a_record_of_another_cache_is_none() -> None:
    block, _ = packed_header(header_of(3))
    assert unpack_record_header(block, UUID_2) is None
    assert unpack_record_header(bytes(LINE), UUID_1) is None
    assert unpack_record_header(b"\xff" * LINE, UUID_1) is None


def test_any_flipped_bit_makes_it_no_record() -> None:
    block, _ = packed_header(header_of(3))
    rng = random.Random(2)
    for bit in [*range(8 * 256), *rng.sample(range(8 * 256, 8 * LINE), 1000)]:
        flipped = bytearray(block)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack_record_header(flipped, UUID_1) is None


def test_any_torn_header_is_no_record() -> None:
    old, _ = packed_header(attrs.evolve(header_of(255), entries=entries_of(255, seed=1)))
    new, _ = packed_header(attrs.evolve(header_of(255, position=771), entries=entries_of(255, seed=2)))
    for mask in range(1, 255):
        torn = b"".join((new if mask >> s & 1 else old)[s * 512 : (s + 1) * 512] for s in range(8))
        if torn in (old, new):
            continue  # the last sector is zero in both
        assert unpack_record_header(torn, UUID_1) is None


@pytest.mark.parametrize("name", RECORD_FIELDS)
def test_no_value_of_a_record_field_gets_past_the_checks(name: str) -> None:
    block, _ = packed_header(header_of(3))
    offset, size = RECORD_FIELDS[name]
    for value in variants(get(block, offset, size), size):
        changed = put(block, offset, size, value)
        if changed == block:
            continue
        assert unpack_record_header(changed, UUID_1) is None
        found = unpack_record_header(resealed(changed, crc_at=4), UUID_1)
        if name in ("magic", "uuid") or (name == "count" and not 1 <= value <= 255):
            assert found is None
        elif name != "crc":
            assert found is not None
            assert getattr(found, name) == value


@given(st.integers(0, 1 << 64))
def test_random_blocks_are_no_records(seed: int) -> None:
    noise = random.Random(seed).randbytes(LINE)
    assert unpack_record_header(noise, UUID_1) is None
    assert unpack_record_header(b"lcR\n" + noise[4:8] + UUID_1.bytes + noise[24:], UUID_1) is None
