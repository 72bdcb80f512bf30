# SPDX-License-Identifier: GPL-2.0-or-later
"""B43: what dm-lc wrote depended on the machine's byte order and word size; lcfs writes little-endian numbers of fixed
size with a version, and leaves an image of a newer version alone."""

from __future__ import annotations

import pytest
import trio.testing
from crc32c import crc32c

from lcfs.engine import NewerVersion
from lcfs.engine.disk_format import SUPERBLOCK_COPIES, VERSION
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, lines, write


async def small_image() -> Rig:
    """Two records in an image with one disk."""
    rig = Rig()
    async with rig.mounted({7: MIB}) as manager:
        await write(manager.devices[7], 5 * LINE, lines(7, 5, 1, 1))
        await manager.devices[7].flush()
        await write(manager.devices[7], 0x9A * LINE, lines(7, 0x9A, 2, 1))
    return rig


async def test_numbers_are_little_endian(autojump_clock: trio.testing.MockClock) -> None:
    rig = await small_image()
    image = rig.medium(IMAGE).live
    for offset in SUPERBLOCK_COPIES:
        copy = image.read(offset, LINE)
        assert copy[:8] == b"lcfs\0sb\n"
        assert copy[8:12] == bytes([VERSION, 0, 0, 0])
        assert copy[48:64] == bytes.fromhex("01000000 00100000 00010000 03000000"), "cache id, line, blocks, segments"
    first, second = image.read(LOG_START, LINE), image.read(LOG_START + 2 * LINE, LINE)
    assert first[:4] == second[:4] == b"lcR\n"
    # position 0x100 is segment 1, block 0; 0x102 is two blocks further
    assert (first[32:40], second[32:40]) == (bytes.fromhex("0001000000000000"), bytes.fromhex("0201000000000000"))
    assert second[40:48] == first[32:40], "the record before"
    # entries: line (48 bits), disk, dirty bits
    assert first[128:136] == bytes.fromhex("05000000 0000 07 ff")
    assert second[128:136] + second[140:148] == bytes.fromhex("9a000000 0000 07 ff 9b000000 0000 07 ff")


async def test_a_newer_version_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    rig = await small_image()
    medium = rig.medium(IMAGE)
    for image in (medium.live, medium.durable):
        for offset in SUPERBLOCK_COPIES:
            copy = bytearray(image.read(offset, LINE))
            copy[8:12] = (VERSION + 1).to_bytes(4, "little")
            copy[16:20] = bytes(4)
            copy[16:20] = crc32c(copy).to_bytes(4, "little")
            image.write(offset, bytes(copy))
    before = medium.live.copy()
    with pytest.raises(NewerVersion, match=rf"{IMAGE}: format version {VERSION + 1} is newer than {VERSION}"):
        async with rig.mounted():
            pass
    assert medium.live == before
