# SPDX-License-Identifier: GPL-2.0-or-later
"""B36: dm-lc wrote superblock and headers from memory it had not initialised; in lcfs every byte of a metadata block is
given by what it says, and the rest is zero."""

from __future__ import annotations

import trio.testing

from lcfs.engine.disk_format import (
    SUPERBLOCK_COPIES,
    pack_record_header,
    pack_superblock,
    unpack_record_header,
    unpack_superblock,
)
from lcfs.engine.formatting import format_image
from lcfs.testing import Medium, Operation, SparseImage
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, backing, lines, write

GARBAGE = 0xDB


async def test_every_byte_of_metadata_is_meant(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.storage.media[IMAGE] = Medium(SparseImage.of(bytes([GARBAGE]) * 4 * MIB))
    store = await rig.storage.open(IMAGE)
    await format_image(store)
    await store.close()
    async with rig.mounted({1: 4 * MIB, 2: MIB}) as manager:
        cache, (disk, other) = manager.caches[1], manager.devices.values()
        # full segments first, so that later headers are put together in buffers that held something else
        await write(disk, 0, lines(1, 0, 2 * 255, 1))
        await cache.drop_caches()
        for number in range(20):
            await write(other, number * LINE, lines(2, number, 1 + number % 3, number))
            await other.flush()
        uuid = cache.uuid
    image = rig.medium(IMAGE).live
    headers = 0
    for call in rig.log.of(Operation.WRITE, IMAGE):
        if call.offset >= LOG_START:
            header = unpack_record_header(call.data[:LINE], uuid)
            assert header is not None
            packed = bytearray(LINE)
            pack_record_header(header, memoryview(packed))
            assert call.data[:LINE] == packed
            assert len(call.data) == (1 + header.count) * LINE
            headers += 1
    assert headers >= 22
    for offset in SUPERBLOCK_COPIES:
        copy = image.read(offset, SUPERBLOCK_COPIES[1])
        superblock = unpack_superblock(copy, image.size)
        packed_copy = pack_superblock(superblock)
        assert copy.startswith(packed_copy)
        assert len(superblock.disks) == 2
        used = 512 + sum(72 + len(backing(disk.id)) + len(disk.name) for disk in superblock.disks)
        assert packed_copy[used:] == bytes(len(packed_copy) - used)
