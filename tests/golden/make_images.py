# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden images: cache images of each version of the format, and what a reader must find in them.

    python -m tests.golden.make_images            # from the top of the checkout; writes what is missing

An image of a version that has been released is never made again: it stands for the images that people have. When
the format changes, VERSION grows, and new images are made beside the old ones. Every UUID is fixed and nothing is
drawn at random, so the same scenes give the same bytes as long as the format and the writer are the same.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import trio
import trio.testing

from lcfs.engine.disk_format import SUPERBLOCK_COPIES, DiskEntry, Superblock, pack_superblock
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA
from lcfs.engine.log_reader import LogReader
from lcfs.engine.superblock import SuperblockWriter, read_superblock
from lcfs.engine.tunables import defaults
from lcfs.testing import Medium, MemoryStore, SparseImage, UnsyncedWrite, lose_all
from tests.engine.log_builder import Line, LogBuilder
from tests.engine.rig import CACHE_UUID, Lab, page

VERSION = 1
HERE = Path(__file__).parent
Scene = Callable[[], Awaitable[Medium]]


async def empty() -> Medium:
    """A formatted image of the usual geometry, 2 MiB."""
    medium = Medium(SparseImage(2 << 20))
    await format_image(MemoryStore(medium), uuid=CACHE_UUID, cache_id=3)
    return medium


async def clean() -> Medium:
    """Two disks, whole and partial lines, overwritten ones; left by a clean stop with all of it dirty."""
    lab = await Lab.new(disks={1: 40 * LINE, 200: 9 * LINE + 1536})
    async with lab.run(clean=True) as rig:
        await rig.write(1, 0, page(1, 9))
        await rig.write(200, 9 * LINE, page(2)[:1536])
        await rig.cache.barrier()
        await rig.write(1, 2 * LINE + 512, page(3)[:1024])
        await rig.write(200, 0, page(4))
        await rig.cache.barrier()
        await rig.write(1, 30 * LINE + 100, b"a few bytes")
    return lab.image


async def around() -> Medium:
    """The ring has been turned twice, all but the last record is migrated, and the power failed."""
    lab = await Lab.new(segments=5)
    async with lab.run() as rig:
        for number in range(11):
            await rig.write(1, number * LINE, page(number, 5))
            await rig.cache.barrier()
            if number % 2:
                await rig.cache.drop_caches()
        return lab.crash(lose_all).image


async def torn() -> Medium:
    """Three runs: the first ends with records of which only some sectors were kept, the second goes on from there."""
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.cache.barrier()
        await rig.write(1, LINE, page(2, 2))
        rig.cache.seal()
        await trio.testing.wait_all_tasks_blocked()
        await rig.write(1, 10 * LINE, page(3))
        rig.cache.seal()
        await trio.testing.wait_all_tasks_blocked()
        lab = lab.crash(_all_but_one_sector)
    async with lab.run() as rig:
        await rig.write(1, 20 * LINE, page(4, 2))
        await rig.cache.barrier()
        lab = lab.crash(lose_all)
    async with lab.run() as rig:
        await rig.write(1, 0, page(5)[:512])
        await rig.cache.barrier()
        return lab.crash(lose_all).image


def _all_but_one_sector(writes: Sequence[UnsyncedWrite]) -> list[int]:
    return [(1 << write.nr_sectors) - 1 & ~(1 << 10) for write in writes]


async def damaged() -> Medium:
    """Two lines that had been durable do not match their checksums any more."""
    medium = await clean()
    for block in (257, 265):
        medium.live.write(block * LINE + 77, b"\x5a")
    return medium


async def hole() -> Medium:
    """A record that had been durable lost a bit of its header."""
    medium = await clean()
    medium.live.write(SUPERBLOCK_AREA + 8 * LINE + 130, b"\x5a")
    return medium


async def known_bad() -> Medium:
    """A line that was damaged when it was copied to the head of the log, in the last record, between good ones."""
    log = LogBuilder()
    log.attach((1, 20, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2)])
    await log.record(2, 0, [Line(5, 3), Line(4, 4, known_bad=True), Line(6, 5)])
    log.say(head=log.geometry.position(1, 3), had_disk=True, tunables=defaults())
    for copy in SUPERBLOCK_COPIES:
        await log.store.write(copy, [pack_superblock(log.superblock)])
    return log.store.medium


async def table() -> Medium:
    """A disk table with everything a row can say, and tunables at their limits; the copy in force is the second."""
    lab = await Lab.new(disks={1: 40 * LINE})
    (disk,) = (await lab.superblock()).disks
    rows = (
        attrs.evolve(disk, attached_at=77, stamp=(1 << 64) - 1, previous_stamp=1 << 63, migrate_threshold=0),
        DiskEntry(2, UUID(int=2), 512, "/srv/\udcff\udc80.img", "x" * 64, None, migrate_threshold=100),
        DiskEntry(254, UUID(int=3), 16 << 40, "/" + "d" * 4094, "späte Größe", UUID(int=9), attached_at=1 << 40),
    )
    tunables = {**defaults(), "barrier_deadline_ms": 1000, "nr_max_batched_migration": 256, "update_interval": 3600}
    superblock = attrs.evolve(await lab.superblock(), disks=rows, tunables=tunables, cache_id=254, sequence=9)
    await lab.put_superblock(attrs.evolve(superblock, sequence=8, disks=rows[:1]))
    store = MemoryStore(lab.image)
    await SuperblockWriter(store, attrs.evolve(superblock, sequence=8), store.flush).commit(lambda: superblock)
    return lab.image


SCENES: Mapping[str, Scene] = {scene.__name__: scene for scene in (empty, clean, around, torn, damaged, hole, known_bad, table)}


def build(name: str) -> bytes:
    """The image of a scene, as today's code writes it."""
    medium = trio.run(SCENES[name], clock=trio.testing.MockClock(autojump_threshold=0))
    return medium.live.read(0, medium.live.size)


def describe_superblock(superblock: Superblock) -> dict[str, Any]:
    """All of it, in words of JSON."""

    def plain(_: type, __: Any, value: Any) -> Any:
        return str(value) if isinstance(value, UUID) else value

    return json.loads(json.dumps(attrs.asdict(superblock, value_serializer=plain)))  # type: ignore[no-any-return]


async def describe(image: bytes) -> dict[str, Any]:
    """What today's code finds in an image: the superblock in force, the records, how the log ends, the newest lines."""
    store = MemoryStore(Medium(SparseImage.of(image)), "golden", yields=False)
    superblock = await read_superblock(store)
    reader = LogReader(store, superblock, check_all=True)
    records = [record async for record in reader.walk()]
    return {
        "superblock": describe_superblock(superblock),
        "verdict": reader.verdict.value,
        "end": reader.end,
        "records": [
            {
                "position": record.header.position,
                "generation": record.header.generation,
                "durable": record.header.durable,
                "tail": record.header.tail,
                "lines": [[int(row["device_id"]), int(row["line"]), int(row["dirty"])] for row in record.header.entries],
                "bad_lines": list(record.bad_lines),
            }
            for record in records
        ],
    }


def main() -> None:
    """Write what is missing."""
    for name in SCENES:
        path = HERE / f"v{VERSION}-{name}.img.gz"
        if path.exists():
            print(f"{path.name} is there")
            continue
        image = build(name)
        path.write_bytes(gzip.compress(image, mtime=0))
        found = trio.run(describe, image)
        path.with_name(f"v{VERSION}-{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{path.name} made")


if __name__ == "__main__":
    main()
