# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/errors.md, row by row: what fails, what the caller gets, what `state` says, and what ends it."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock as Clock

from lcfs.engine.errors import Failed, LcfsError, NoSpace
from lcfs.engine.geometry import LINE
from lcfs.engine.spec import DeviceSpec
from lcfs.testing import Effect, Fault, Operation
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

IMAGE = "/ssd.img"
DISKS = (DeviceSpec("/disk1.img", size=DISK), DeviceSpec("/disk2.img", size=DISK))
WRITES = Operation.WRITE


async def bench_with_image() -> Bench:
    bench = Bench()
    await bench.image()
    return bench


@pytest.mark.parametrize("fault", [Fault(WRITE, times=None) for WRITE in (WRITES, Operation.FLUSH)], ids=["write", "flush"])
async def test_a_log_that_cannot_be_made_durable_fails_for_good(
    fault: Fault, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("failed|could not be")
    bench = await bench_with_image()
    async with bench.doomed(Failed, "cache 1 has failed", devices=DISKS) as manager:
        cache, disk, other = manager.caches[1], manager.devices[1], manager.devices[2]
        await write(disk, 0, page(1))
        bench.fault(IMAGE, fault)
        with pytest.raises(Failed) as caught:
            await disk.flush()
        assert caught.value.errno == errno.EIO
        for failed in (cache, disk, other):
            assert failed.state.startswith("failed ")
        # it latches, though the device is well again
        fault.release()
        for device in (disk, other):
            with pytest.raises(Failed):
                await device.flush()
        assert await read(disk, 0, LINE) == page(1), "what is in RAM is still read"
        await write(disk, LINE, page(2))
        assert await read(disk, LINE, LINE) == page(2)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
async def test_an_image_without_room_says_so_and_goes_on(error: int, autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("no space left|there is space again")
    bench = await bench_with_image()
    async with bench.mount(devices=DISKS) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await write(disk, 0, page(1))
        full = bench.fault(IMAGE, Fault(WRITES, error=error, start=1 << 20, times=None))
        with pytest.raises(NoSpace) as caught:
            await disk.flush()
        assert caught.value.errno == errno.ENOSPC
        assert cache.state == f"degraded no space left for {IMAGE}: free some, writing goes on by itself"
        with pytest.raises(NoSpace):
            for number in range(10 * DISK // LINE):
                await write(disk, number * LINE % DISK, page(number))
        full.release()
        await trio.sleep(2)
        assert (cache.state, disk.state) == ("running", "running")
        await disk.flush()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_backing_that_cannot_be_written_degrades_its_disk_alone(
    error: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("disk 1 is degraded")
    bench = await bench_with_image()
    async with bench.mount(devices=DISKS) as manager:
        cache, disk, other = manager.caches[1], manager.devices[1], manager.devices[2]
        full = bench.fault("/disk1.img", Fault(WRITES, error=error, times=None))
        await write(disk, 0, page(1))
        await write(other, 0, page(2))
        await disk.flush()
        with pytest.raises(LcfsError) as caught:
            await cache.drop_caches()
        assert caught.value.errno == error
        assert disk.state.startswith("degraded /disk1.img cannot be written: ")
        assert (cache.state, other.state) == ("running", "running")
        assert (disk.nr_dirty_caches, other.nr_dirty_caches) == (1, 0)
        await disk.flush()
        assert await read(disk, 0, LINE) == page(1)
        full.release()
        await trio.sleep(40)
        await cache.drop_caches()
        assert (disk.state, disk.nr_dirty_caches) == ("running", 0)


async def test_a_backing_that_hangs_degrades_its_disk_alone(autojump_clock: Clock) -> None:
    bench = await bench_with_image()
    async with bench.mount(devices=DISKS) as manager:
        cache, disk, other = manager.caches[1], manager.devices[1], manager.devices[2]
        await cache.set_tunable("force_migrate", 1)
        hang = bench.fault("/disk1.img", Fault(WRITES, Effect.HANG, times=None))
        await write(disk, 0, page(1))
        await disk.flush()
        cache.close_segment()
        await trio.sleep(2)
        assert disk.state == "running"
        await trio.sleep(10)
        assert disk.state == ("degraded /disk1.img has been at one write for more than 5 s; its dirty lines stay in the cache")
        assert (cache.state, other.state) == ("running", "running")
        began = trio.current_time()
        await write(disk, LINE, page(3))
        await disk.flush()
        await write(other, 0, page(2))
        await other.flush()
        await cache.drain(other)
        assert trio.current_time() - began < 1
        hang.release()
        await trio.sleep(2)
        assert disk.state == "running"


async def test_a_commit_without_an_answer_ends_in_failed_and_holds_nobody(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed|was not left clean")
    bench = await bench_with_image()
    async with bench.doomed(Failed, "cache 1", devices=DISKS) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        bench.fault(IMAGE, Fault(Operation.FLUSH, Effect.HANG, times=None))
        await write(disk, 0, page(1))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def refused(action: object) -> None:
                with pytest.raises(Failed):
                    await action()  # type: ignore[operator]

            nursery.start_soon(refused, disk.flush)
            nursery.start_soon(refused, cache.commit_super_block)
            await trio.sleep(1)
            assert await read(disk, 0, LINE) == page(1)
        assert trio.current_time() - began < 130
        assert cache.state.startswith("failed the superblock could not be written")
