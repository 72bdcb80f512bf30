# SPDX-License-Identifier: GPL-2.0-or-later
"""Today's code reads the images of every version, and writes those of its own version as it did."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import VERSION as FORMAT_VERSION
from lcfs.engine.errors import Damaged, Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import LineTable
from lcfs.engine.recover import resume_cache
from lcfs.engine.superblock import read_superblock, read_superblocks
from lcfs.testing import Medium, MemoryStore, SparseImage
from tests.engine.rig import page
from tests.golden.make_images import HERE, SCENES, VERSION, build, describe
from tests.plugins.log_check import ExpectLog

IMAGES = sorted(HERE.glob("*.img.gz"))
Disks = dict[int, bytes]


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def golden(name: str) -> MemoryStore:
    """A golden image of the present version, as a store."""
    return MemoryStore(Medium(SparseImage.of(content(HERE / f"v{VERSION}-{name}.img.gz"))), name, yields=False)


async def disks_of(store: MemoryStore) -> Disks:
    """Every attached disk as its user reads it, over a backing of zeros."""
    superblock = await read_superblock(store)
    devices = {}
    for row in superblock.disks:
        if row.cache_uuid == superblock.uuid:
            device = devices[row.id] = CachedDevice(row.id, row.size, MemoryStore.of_size(row.size, row.path, yields=False))
            device.table = LineTable(device.nr_lines)
    cache = await resume_cache(1, store, superblock, devices.values())
    return {number: bytes(await cache.read(device, 0, device.size)) for number, device in devices.items()}


def over(size: int, *writes: tuple[int, bytes]) -> bytes:
    """Writes over a disk of zeros."""
    disk = bytearray(size)
    for offset, data in writes:
        disk[offset : offset + len(data)] = data
    return bytes(disk)


CLEAN: Disks = {
    1: over(40 * LINE, (0, page(1, 9)), (2 * LINE + 512, page(3)[:1024]), (30 * LINE + 100, b"a few bytes")),
    200: over(9 * LINE + 1536, (9 * LINE, page(2)[:1536]), (0, page(4))),
}


def test_there_is_an_image_of_every_scene() -> None:
    assert VERSION == FORMAT_VERSION
    assert {f"v{VERSION}-{name}.img.gz" for name in SCENES} <= {path.name for path in IMAGES}


@pytest.mark.parametrize("name", SCENES)
def test_the_same_scene_gives_the_same_bytes(name: str) -> None:
    before, now = content(HERE / f"v{VERSION}-{name}.img.gz"), build(name)
    differ = [block for block in range(len(now) // LINE) if now[block * LINE :][:LINE] != before[block * LINE :][:LINE]]
    assert len(now) == len(before)
    assert not differ, "blocks of the image; if the change is meant, it is a new version of the format"


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
async def test_what_is_found_in_an_image(path: Path) -> None:
    expected = json.loads(path.with_name(path.name.removesuffix(".img.gz") + ".json").read_text())
    assert await describe(content(path)) == expected


async def test_empty() -> None:
    store = golden("empty")
    assert not (await read_superblocks(store)).damaged
    assert await disks_of(store) == {}


async def test_clean() -> None:
    assert await disks_of(golden("clean")) == CLEAN


async def test_around() -> None:
    """What was migrated is on the backing: only the last record is this image's to give."""
    assert await disks_of(golden("around")) == {1: over(64 * LINE, (10 * LINE, page(10, 5)))}


async def test_torn() -> None:
    writes = ((0, page(1, 3)), (20 * LINE, page(4, 2)), (0, page(5)[:512]))
    assert await disks_of(golden("torn")) == {1: over(64 * LINE, *writes)}


async def test_damaged(expect_log: ExpectLog) -> None:
    expect_log("line 0 of disk 1 is damaged on damaged")
    with pytest.raises(Failed, match="line 0 of disk 1 is damaged on damaged"):
        await disks_of(golden("damaged"))


async def test_hole() -> None:
    with pytest.raises(Damaged, match="the log record at segment 2, block 0 was durable and is damaged"):
        await disks_of(golden("hole"))


async def test_known_bad(expect_log: ExpectLog) -> None:
    expect_log("1 lines of known_bad are damaged")
    expect_log("line 4 of disk 1 is damaged on known_bad")
    with pytest.raises(Failed, match="line 4 of disk 1 is damaged on known_bad"):
        await disks_of(golden("known_bad"))


async def test_table() -> None:
    superblock = await read_superblock(golden("table"))
    assert [row.id for row in superblock.disks] == [1, 2, 254]
    assert superblock.disks[1].path == "/srv/\udcff\udc80.img"
    assert superblock.disks[2].name == "späte Größe"
    assert superblock.disks[2].size == 16 << 40
    assert superblock.sequence == 9
