# SPDX-License-Identifier: GPL-2.0-or-later
"""B14: dm-lc copied a request as if its data lay in one piece, corrupting what came in several; in lcfs a write of any
offset, length and number of pieces reads back as it was written, from the engine and through the mount."""

from __future__ import annotations

import os
import random

import pytest
import trio.testing

from lcfs.testing import lose_all
from tests.mount.harness import Lcfs
from tests.regress.support import LINE, MIB, Rig, read, recovered, write

DISK = MIB


@pytest.mark.parametrize("nowait", [True, False])
async def test_any_offset_and_length(autojump_clock: trio.testing.MockClock, nowait: bool) -> None:
    rng = random.Random(14)
    rig = Rig(nowait=nowait)
    wanted = bytearray(rng.randbytes(DISK))
    rig.add_backing(1, bytes(wanted))
    async with rig.mounted({1: DISK}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        for step in range(600):
            offset = rng.randrange(DISK)
            length = min(rng.choice((1, 7, 511, 512, 513, 4095, 4096, 4097, 12345, 5 * LINE)), DISK - offset)
            if rng.random() < 0.3:
                offset -= offset % 512
            if rng.random() < 0.6:
                data = rng.randbytes(length)
                await write(disk, offset, data)
                wanted[offset : offset + length] = data
            else:
                assert await read(disk, offset, length) == wanted[offset : offset + length], f"step {step}"
            if step % 50 == 20:
                await disk.flush()
            if step % 150 == 100:
                await cache.drop_caches()
        await disk.flush()
        assert cache.ring.recount(1) == disk.nr_dirty_caches
        rig = rig.crash(lose_all)
    assert await recovered(rig) == {1: bytes(wanted)}


def test_many_pieces_through_the_mount(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "d.img,size=1M")
    rng = random.Random(14)
    wanted = bytearray(MIB)
    for direct in (0, os.O_DIRECT):
        file = os.open(mnt / "devices/1", os.O_RDWR | direct)
        try:
            for _ in range(40):
                pieces = [rng.randbytes(rng.choice((1, 100, 512, 4096, 5000))) for _ in range(rng.randrange(1, 9))]
                data = b"".join(pieces)
                offset = rng.randrange(MIB - len(data))
                assert os.pwritev(file, pieces, offset) == len(data)
                wanted[offset : offset + len(data)] = data
                buffers = [bytearray(rng.randrange(1, 6000)) for _ in range(3)]
                got = os.preadv(file, buffers, offset)
                assert b"".join(buffers)[:got] == wanted[offset : offset + got]
        finally:
            os.close(file)
    assert (mnt / "devices/1").read_bytes() == wanted
    lcfs.umount()
    lcfs.mount()
    assert (mnt / "devices/1").read_bytes() == wanted
