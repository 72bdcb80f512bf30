# SPDX-License-Identifier: GPL-2.0-or-later
"""B35: dm-lc passed discards and flushes by the cache, so that discarded data came back and a flush missed the backing;
lcfs takes no discard it would not keep, zeroes what is to be zeroed through the cache, and flushes a bare backing."""

from __future__ import annotations

import pytest
import trio.testing

from lcfs.testing import Operation, lose_all
from tests.mount.harness import Lcfs
from tests.regress.support import LINE, MIB, Rig, backing, lines, recovered, write

OLD = b"\xaa" * MIB


async def test_a_flush_without_a_cache_reaches_the_backing(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted() as manager:
        await manager.message(f"create 1 {backing(1)} 1M")
        disk = manager.devices[1]
        await write(disk, 0, lines(1, 0, 3, 1))
        before = rig.log.count(Operation.FLUSH, backing(1))
        await disk.flush()
        assert rig.log.count(Operation.FLUSH, backing(1)) == before + 1
        rig = rig.crash(lose_all)
    assert (await recovered(rig))[1][: 3 * LINE] == lines(1, 0, 3, 1)


def test_a_hole_is_refused_and_changes_nothing(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "d.img,size=1M")
    (mnt / "devices/1").write_bytes(OLD)
    for words in (["--punch-hole"], ["--zero-range"], ["--collapse-range"], ["--insert-range"]):
        refused = lcfs.shell("fallocate", *words, "--offset", "4096", "--length", "8192", mnt / "devices/1", check=False)
        assert refused.returncode != 0
        assert "support" in refused.stderr
    assert (mnt / "devices/1").read_bytes() == OLD
    lcfs.store("caches/1/drop_caches", 1)
    assert (mnt / "devices/1").read_bytes() == OLD == (lcfs.directory / "d.img").read_bytes()


@pytest.mark.loop
def test_discards_and_zeroes_through_a_loop_device(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "d.img,size=1M")
    (mnt / "devices/1").write_bytes(OLD)
    lcfs.store("caches/1/flush_current_buffer", 1)
    loop = lcfs.losetup(mnt / "devices/1")
    # lcfs says EOPNOTSUPP, which the kernel drops, a discard being a hint: what was there stays there, for good
    lcfs.shell("blkdiscard", "--offset", "0", "--length", "65536", loop)
    lcfs.shell("blkdiscard", "--zeroout", "--offset", "131072", "--length", "65536", loop)
    lcfs.detach_loop(loop)
    wanted = OLD[:131072] + bytes(65536) + OLD[196608:]
    assert (mnt / "devices/1").read_bytes() == wanted
    lcfs.store("caches/1/drop_caches", 1)
    assert (mnt / "devices/1").read_bytes() == wanted == (lcfs.directory / "d.img").read_bytes()
