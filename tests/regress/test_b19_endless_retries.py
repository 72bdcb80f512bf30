# SPDX-License-Identifier: GPL-2.0-or-later
"""B19: dm-lc repeated a failing I/O for ever with the cache locked, so that one bad device hung everything and nobody was
told; lcfs tries a few times, tells who waits, names the state, and leaves the others alone."""

from __future__ import annotations

import errno
import logging

import pytest
import trio
import trio.testing

from lcfs.engine import CacheSpec, DeviceSpec, LcfsError, MountSpec
from lcfs.testing import Effect, Operation
from tests.plugins.log_check import ExpectLog
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, backing, lines, on_backing, one_cache, read, write

TWO_CACHES = MountSpec(
    (CacheSpec(IMAGE, id=1), CacheSpec("/other.img", id=2)),
    (DeviceSpec(backing(1), id=1, size=MIB, cache=1), DeviceSpec(backing(2), id=2, size=MIB, cache=2)),
    cache_size=4 * MIB,
)


async def test_a_log_that_cannot_be_written(autojump_clock: trio.testing.MockClock, expect_log: ExpectLog) -> None:
    rig = Rig()
    attempts = expect_log(rf"write to {IMAGE} failed .* attempt \d")
    expect_log(r"cache 1 has failed: the log could not be written", level=logging.ERROR)
    expect_log(r"cache 1 was not left clean", level=logging.ERROR, at_least=0)
    async with rig.doomed(TWO_CACHES) as manager:
        cache, (disk, other) = manager.caches[1], manager.devices.values()
        bad = rig.fault(IMAGE, Operation.WRITE, Effect.ERROR, times=None, start=LOG_START)
        await write(disk, 0, lines(1, 0, 1, 1))
        began = trio.current_time()
        with pytest.raises(LcfsError) as refusal:
            await disk.flush()
        assert trio.current_time() - began < 5
        assert refusal.value.errno == errno.EIO
        assert 1 <= len(attempts.records) < bad.met <= 5
        assert (cache.state.split()[0], disk.state.split()[0]) == ("failed", "failed")
        assert await read(disk, 0, LINE) == lines(1, 0, 1, 1), "what is in RAM is still read"
        # the other cache and its disk do not notice
        await write(other, 0, lines(2, 0, 1, 1))
        await other.flush()
        await manager.caches[2].drop_caches()
        assert (manager.caches[2].state, other.state) == ("running", "running")
    assert on_backing(rig, 2)[:LINE] == lines(2, 0, 1, 1)


async def test_a_backing_that_cannot_be_written(autojump_clock: trio.testing.MockClock, expect_log: ExpectLog) -> None:
    rig = Rig()
    warnings = expect_log(r"disk 1 is degraded")
    async with rig.mounted(one_cache({1: MIB, 2: MIB}, 16 * MIB)) as manager:
        cache, (disk, other) = manager.caches[1], manager.devices.values()
        bad = rig.fault(backing(1), Operation.WRITE, Effect.ERROR, times=None)
        for number, device in manager.devices.items():
            await write(device, 0, lines(number, 0, 1, 1))
        with pytest.raises(LcfsError) as refusal:
            await cache.drop_caches()
        assert refusal.value.errno == errno.EIO
        assert (disk.nr_dirty_caches, disk.state.split()[0]) == (1, "degraded")
        assert (other.nr_dirty_caches, other.state, cache.state) == (0, "running", "running")
        # in the background it is tried again ever more rarely, and nothing waits for it
        await cache.set_tunable("allow_migrate", 1)
        before = bad.met
        await trio.sleep(3600)
        assert before < bad.met < before + 3600 / 10
        assert len(warnings.records) == 1
        with trio.fail_after(1):
            await write(other, LINE, lines(2, 1, 1, 1))
            await disk.flush()
            assert await read(disk, 0, LINE) == lines(1, 0, 1, 1)
        bad.release()
        await trio.sleep(60)
        assert (disk.nr_dirty_caches, disk.state) == (0, "running")
    assert on_backing(rig, 1)[:LINE] == lines(1, 0, 1, 1)
