# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/disk_format.md says what the code does: its tables, its example, and its rules of reading."""

from __future__ import annotations

import random
import re
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from crc32c import crc32c

from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import (
    Superblock,
    pack_record_header,
    pack_superblock,
    unpack_record_header,
    unpack_superblock,
)
from lcfs.engine.geometry import LINE
from lcfs.engine.log_reader import LogReader, Verdict
from lcfs.engine.lookup import LineTable
from lcfs.engine.recover import resume_cache
from lcfs.engine.superblock import read_superblock
from lcfs.testing import MemoryStore, keep_random
from tests.engine import second_reader
from tests.engine.log_builder import Line, LogBuilder
from tests.engine.rig import Lab, page
from tests.engine.second_reader import SecondReader
from tests.plugins.log_check import ExpectLog

DOCUMENT = (Path(__file__).parents[2] / "docs" / "disk_format.md").read_text()
MIB = 1 << 20


@attrs.frozen
class Field:
    """A row of a table of the document."""

    offset: int
    size: int
    name: str
    example: bytes


def fields_of(heading: str, column: int = 3) -> list[Field]:
    """The table under a heading, with the example's values as bytes."""
    section = re.split(r"^#+ ", DOCUMENT.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if re.match(r"\| \d", line)]
    found = []
    for row in rows:
        size, value = int(row[1]), row[column]
        if value.startswith("`"):
            example = bytes.fromhex(value.strip("`"))
        else:
            example = int(value, 0).to_bytes(size, "little")
        found.append(Field(int(row[0]), size, row[2], example))
    assert found
    return found


def hex_dumps() -> list[bytes]:
    """The dumps of the document, as bytes."""
    dumps: list[bytes] = []
    content = bytearray()
    repeat = False
    for line in DOCUMENT.splitlines():
        if (match := re.fullmatch(r"    ([0-9a-f]{8})((?:  ?[0-9a-f]{2}){16})  \|.*\|", line)) is not None:
            offset, row = int(match[1], 16), bytes.fromhex(match[2])
            if repeat:
                content += content[-16:] * ((offset - len(content)) // 16)
            assert offset == len(content), line
            content += row
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            assert line.endswith(f"  |{text}|"), line
            repeat = False
        elif line == "    *":
            repeat = True
        elif (match := re.fullmatch(r"    ([0-9a-f]{8})", line)) is not None:
            content += content[-16:] * ((int(match[1], 16) - len(content)) // 16)
            dumps.append(bytes(content))
            content, repeat = bytearray(), False
    return dumps


COPY, HEADER = hex_dumps()
LINES = [b"A" * 4096, bytes(512) + b"B" * 1024 + bytes(2560)]


def example_image() -> MemoryStore:
    """The example put together."""
    store = MemoryStore.of_size(4 * MIB, "example", yields=False)
    image = store.medium.live
    image.write(0, COPY)
    image.write(MIB, HEADER + b"".join(LINES))
    return store


@pytest.mark.parametrize(("heading", "end"), [("Superblock", 512), ("Disk row", 72), ("Record", 128), ("Row", 12)])
def test_the_tables_leave_no_gap(heading: str, end: int) -> None:
    at = 0
    for field in fields_of(heading):
        assert field.offset == at, field
        assert len(field.example) == field.size
        at += field.size
    assert at == end


@pytest.mark.parametrize(
    ("heading", "dump", "offset", "column"),
    [
        ("Superblock", COPY, 0, 3),
        ("Disk row", COPY, 512, 3),
        ("Record", HEADER, 0, 3),
        ("Row", HEADER, 128, 3),
        ("Row", HEADER, 140, 4),
    ],
)
def test_the_example_has_the_values_of_the_tables(heading: str, dump: bytes, offset: int, column: int) -> None:
    for field in fields_of(heading, column):
        start = offset + field.offset
        assert dump[start : start + field.size] == field.example, field.name


def test_the_code_decodes_the_superblock_of_the_example() -> None:
    superblock = unpack_superblock(COPY, 4 * MIB)
    table = {field.name: int.from_bytes(field.example, "little") for field in fields_of("Superblock")}
    assert superblock.uuid == UUID("00112233-4455-6677-8899-aabbccddeeff")
    for name in ("sequence", "cache_id", "generation", "generation_start", "tail", "head"):
        assert getattr(superblock, name) == table[name]
    assert (superblock.geometry.nr_segments, superblock.geometry.blocks_per_segment) == (3, 256)
    assert superblock.tunables == {name: table[name] for name in superblock.tunables}
    assert not superblock.clean
    assert superblock.had_disk
    (disk,) = superblock.disks
    assert (disk.id, disk.name, disk.path, disk.size) == (1, "disk1", "/srv/disk1.img", 1 << 30)
    assert (disk.attached_at, disk.stamp, disk.previous_stamp) == (256, 0x1122334455667788, 0)
    assert disk.cache_uuid == superblock.uuid
    assert disk.uuid == UUID("01234567-89ab-cdef-0123-456789abcdef")
    assert pack_superblock(superblock) == COPY


def test_the_code_decodes_the_record_of_the_example() -> None:
    superblock = unpack_superblock(COPY, 4 * MIB)
    header = unpack_record_header(HEADER, superblock.uuid)
    assert header is not None
    assert (header.generation, header.position, header.durable, header.tail, header.end) == (2, 256, 256, 1, 259)
    assert header.entries.tolist() == [(3, 0, 1, 0xFF, crc32c(LINES[0])), (7, 0, 1, 6, crc32c(LINES[1]))]
    block = bytearray(LINE)
    assert pack_record_header(header, memoryview(block)) == header.crc
    assert block == HEADER


async def test_the_code_reads_the_example_as_the_document_does() -> None:
    store = example_image()
    superblock = await read_superblock(store)
    reader = LogReader(store, superblock)
    records = [record async for record in reader.walk()]
    assert [record.header.position for record in records] == [256]
    assert (reader.verdict, reader.end) == (Verdict.END, 259)
    device = CachedDevice(1, 1 << 30, None)
    device.table = LineTable(device.nr_lines)
    cache = await resume_cache(1, store, superblock, [device])
    assert device.nr_dirty_caches == 2
    assert (device.table.index[3], device.table.index[7]) == (257, 258)
    assert bytes(await cache.read(device, 3 * LINE, LINE)) == LINES[0]


def test_the_second_reader_reads_the_example() -> None:
    reader = SecondReader(example_image().medium.live.read(0, 4 * MIB))
    assert (reader.verdict, reader.damaged, [record.end for record in reader.records]) == ("end", [], [259])
    assert {key: row.block for key, row in reader.lines.items()} == {(1, 3): 257, (1, 7): 258}


def test_the_checksum_is_the_one_the_document_names() -> None:
    assert second_reader.crc32c(b"123456789") == 0xE3069283 == crc32c(b"123456789")
    assert "0xE3069283" in DOCUMENT
    data = random.Random(1).randbytes(1000)
    assert second_reader.crc32c(data) == crc32c(data)


# The rules of reading: the engine's reader and one written from the document agree on any log.


def as_second(superblock: Superblock) -> second_reader.Superblock:
    """The same, for the second reader, whose own parser has been tested above."""
    return second_reader.choose_superblock(pack_superblock(superblock).ljust(MIB, b"\0"), crc32c)


async def compare(store: MemoryStore, superblock: Superblock) -> Verdict:
    """Both readers on one image."""
    engine = LogReader(store, superblock)
    records = [record async for record in engine.walk()]
    image = store.medium.live.read(0, superblock.geometry.nr_blocks * LINE)
    second = SecondReader(image, crc32c, as_second(superblock))
    assert second.verdict == engine.verdict.value
    assert [record.position for record in second.records] == [record.header.position for record in records]
    assert sorted(second.damaged) == sorted(record.first_index + row for record in records for row in record.bad_lines)
    if engine.verdict is not Verdict.HOLE:
        devices = [CachedDevice(disk.id, disk.size, None) for disk in superblock.disks]
        for device in devices:
            device.table = LineTable(device.nr_lines)
        await resume_cache(1, store, superblock, devices)
        cached = {
            (device.id, line): index
            for device in devices
            for line, index in enumerate(device.table.index[: device.nr_lines])
            if index
        }
        assert {key: row.block for key, row in second.lines.items()} == cached
    return engine.verdict


class Writer:
    """A writer that keeps the rules of the document, on a medium that does not keep all it is given."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.segments = rng.randrange(3, 12)
        self.log = LogBuilder(segments=self.segments)
        self.log.attach((1, 8, 0), (2, 8, 0))
        self.segment_id, self.block = 1, 0
        self.tail = 1
        self.durable = 0

    async def record(self) -> None:
        """Some lines, in this segment or the next; in a full ring the tail moves first."""
        count = self.rng.randrange(1, 8)
        if self.block + 1 + count > 8 or (self.block and self.rng.random() < 0.1):
            self.segment_id, self.block = self.segment_id + 1, 0
        if self.segment_id - self.tail >= self.segments:
            self.tail = self.segment_id - self.rng.randrange(self.segments)
            self.log.say(tail=self.tail, head=max(self.durable, self.log.superblock.head))
        rows = [
            Line(
                line=self.rng.randrange(8),
                number=self.rng.randrange(1000),
                disk=self.rng.choice((1, 2)),
                dirty=self.rng.choice((0xFF, 0xFF, 3, 0)),
                known_bad=self.rng.random() < 0.05,
            )
            for _ in range(count)
        ]
        generation = self.log.superblock.generation
        header = await self.log.record(
            self.segment_id, self.block, rows, generation=generation, durable=self.durable, tail=self.tail
        )
        if self.rng.random() < 0.4:
            self.durable = header.end
        self.block += 1 + count
        if self.block + 1 >= 8:
            self.segment_id, self.block = self.segment_id + 1, 0

    async def spoil(self) -> None:
        """One of the last records loses a bit, mostly where nothing says that it was durable."""
        if self.log.headers:
            back = 1 if self.rng.random() < 0.7 else self.rng.randrange(1, 7)
            victim = self.log.headers[-min(back, len(self.log.headers))]
            self.log.flip(victim.position + self.rng.randrange(victim.count + 1), self.rng.randrange(4096))

    async def recover(self) -> None:
        """A crash, and the beginning of a generation. What the recovery cuts off stays where it is."""
        reader, _ = await self.log.walk()
        if reader.verdict is Verdict.HOLE:
            self.log = LogBuilder(segments=self.segments)
            self.log.attach((1, 8, self.rng.randrange(30)), (2, 8, 0))
            self.segment_id, self.block, self.tail, self.durable = 1, 0, 1, 0
            return
        last = reader.last
        self.log.headers = [] if last is None else [header for header in self.log.headers if header.position <= last.position]
        self.segment_id, self.block = (self.tail if last is None else last.position // 8 + 1), 0
        self.durable = reader.end
        self.log.say(
            generation=self.log.superblock.generation + 1,
            generation_start=self.segment_id * 8,
            head=reader.end,
            clean=False,
        )

    async def stop(self) -> None:
        """A clean stop, after which only the medium may still do harm."""
        await self.recover()
        self.log.say(clean=True)


@pytest.mark.parametrize("part", range(6))
async def test_both_readers_agree_on_any_log(part: int, expect_log: ExpectLog) -> None:
    expect_log("lines of /ssd.img are damaged")
    verdicts: set[tuple[Verdict, bool]] = set()
    for seed in range(25 * part, 25 * part + 25):
        rng = random.Random(seed)
        writer = Writer(rng)
        for _ in range(40):
            if writer.log.superblock.clean:
                step = rng.choice((writer.spoil, writer.recover))
            else:
                step = rng.choices((writer.record, writer.spoil, writer.recover, writer.stop), (12, 2, 2, 1))[0]
            await step()
            verdicts.add((await compare(writer.log.store, writer.log.superblock), writer.log.superblock.clean))
    assert verdicts >= {
        (Verdict.END, False),
        (Verdict.END, True),
        (Verdict.TORN, False),
        (Verdict.HOLE, False),
        (Verdict.HOLE, True),
    }


@pytest.mark.parametrize("seed", range(40))
async def test_both_readers_agree_on_what_a_crash_leaves(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """The engine's own writer, with a crash that keeps any part of what was not flushed."""
    rng = random.Random(seed)
    lab = await Lab.new(segments=rng.randrange(3, 9))
    for _ in range(3):
        async with lab.run() as rig:
            for _ in range(rng.randrange(30)):
                await rig.write(1, rng.randrange(60) * 512, page(rng.randrange(1 << 30))[: rng.randrange(1, 9) * 512])
                if rng.random() < 0.3:
                    await rig.cache.barrier()
                elif rng.random() < 0.3:
                    rig.cache.seal()
                    await trio.lowlevel.checkpoint()
            lab = lab.crash(keep_random(rng))
        await compare(MemoryStore(lab.image, "image", yields=False), await lab.superblock())
