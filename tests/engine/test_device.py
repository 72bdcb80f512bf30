# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual disk: its ends, its way past the cache, and the gate that suspend closes."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from lcfs.engine.device import Device
from lcfs.engine.errors import Failed, Missing, NoSpace
from lcfs.engine.geometry import LINE
from lcfs.engine.spec import DeviceSpec
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
ODD = 5 * LINE + 1536
both = pytest.mark.parametrize("cache", [1, 0], ids=["cached", "past the cache"])


@asynccontextmanager
async def disk(
    cache: int, size: int = DISK, bench: Bench | None = None, *, stop_fails: str | None = None
) -> AsyncIterator[Device]:
    """Disk 1 of a mount, whose stop is to fail with a sentence or not at all."""
    bench = bench or Bench()
    if "/ssd.img" not in bench.storage.media:
        await bench.image()
    devices = (DeviceSpec("/one", size=size, cache=cache),)
    mount = bench.mount(devices=devices) if stop_fails is None else bench.doomed(Failed, stop_fails, devices=devices)
    async with mount as manager:
        yield manager.devices[1]


# Ends


@both
async def test_a_write_across_the_end_is_short_and_one_behind_it_has_no_space(cache: int, autojump_clock: Clock) -> None:
    async with disk(cache, ODD) as device:
        assert device.write_nowait(ODD - 512, bytes(LINE)) == -1
        assert await device.write(ODD - 512, b"x" * LINE) == 512
        assert await read(device, ODD - 1024, 1024) == bytes(512) + b"x" * 512
        assert await device.write(ODD - 1, b"yz") == 1
        for offset in (ODD, ODD + 1, 1 << 62):
            assert device.write_nowait(offset, b"x") == -1
            with pytest.raises(NoSpace, match=f"byte {offset} is past the end of disk 1, which has {ODD} bytes") as caught:
                await device.write(offset, b"x")
            assert caught.value.errno == errno.ENOSPC
        assert await device.write(ODD, b"") == 0
        assert await device.write(0, b"") == 0


@both
async def test_a_read_across_the_end_is_short_and_one_behind_it_is_empty(cache: int, autojump_clock: Clock) -> None:
    async with disk(cache, ODD) as device:
        await write(device, ODD - 512, b"e" * 512)
        assert device.read_nowait(ODD - 512, 1024) is None
        assert bytes(await device.read(ODD - 512, 1024)) == b"e" * 512
        assert bytes(await device.read(ODD - 1, 1 << 40)) == b"e"
        for offset in (ODD, ODD + 1, 1 << 62):
            assert bytes(await device.read(offset, 10)) == b""
        assert bytes(await device.read(0, 0)) == b""


@both
async def test_any_offset_and_length(cache: int, autojump_clock: Clock) -> None:
    async with disk(cache, ODD) as device:
        expected = bytearray(ODD)
        for number, (offset, length) in enumerate([(0, 1), (511, 2), (4095, 2), (1000, 9000), (ODD - 3, 3), (4096, 4096)]):
            data = bytes([number + 1]) * length
            await write(device, offset, data)
            expected[offset : offset + length] = data
        assert await read(device, 0, ODD) == bytes(expected)
        assert await read(device, 777, 5000) == bytes(expected[777:5777])


@both
async def test_what_was_flushed_survives_a_loss_of_power(cache: int, autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(cache, bench=bench) as device:
        await write(device, 0, page(1))
        await device.flush()
        await write(device, 0, page(2))
        after = Bench(bench.storage.crash(lose_all))
    async with after.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)


# Past the cache


async def test_without_a_cache_requests_go_straight_to_the_backing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(0, bench=bench) as device:
        assert device.write_nowait(0, page(1)) == -1
        assert device.read_nowait(0, LINE) is None
        await device.write(100, page(1))
        assert bench.storage.media["/one"].live.read(100, LINE) == page(1)
        assert bench.storage.media["/one"].unsynced.writes
        await device.flush()
        assert not bench.storage.media["/one"].unsynced.writes


async def test_an_error_of_the_backing_reaches_the_reader_and_the_writer(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(0, bench=bench) as device:
        bench.fault("/one", Fault(Operation.WRITE, error=errno.EROFS))
        bench.fault("/one", Fault(Operation.READ, error=errno.EIO, times=None))
        with pytest.raises(OSError, match="injected") as caught:
            await device.write(0, b"x")
        assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="injected") as caught:
            await device.read(0, 1)
        assert caught.value.errno == errno.EIO
        assert device.nr_errors == 2
        await device.write(0, b"x")
        assert device.nr_errors == 2


async def test_after_a_flush_that_failed_no_barrier_is_believed(autojump_clock: Clock) -> None:
    """The kernel reports a writeback error once per descriptor: the next success is not one's own."""
    bench = Bench()
    async with disk(0, bench=bench, stop_fails="disk 1 could not be flushed") as device:
        hang = bench.fault("/one", Fault(Operation.FLUSH, Effect.HANG))
        bench.fault("/one", Fault(Operation.FLUSH, Effect.LOSE))
        outcomes: list[str] = []

        async def flush() -> None:
            try:
                await device.flush()
            except Failed as exc:
                assert exc.errno == errno.EIO
                outcomes.append("failed")
            else:
                outcomes.append("flushed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            await device.write(0, page(1))
            nursery.start_soon(flush)
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            hang.release()
        assert outcomes == ["flushed", "failed", "failed"]
        await flush()
        assert outcomes[-1] == "failed"
        assert await read(device, 0, LINE) == page(1)


# States


async def test_states_and_what_they_say(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1 is degraded")
    expect_log("cache 1 has failed")
    expect_log("cache 1 was not left clean")
    bench = Bench()
    async with disk(1, bench=bench, stop_fails="cache 1 has failed") as device:
        assert (device.state, device.present, device.cache_id) == ("running", True, 1)
        assert device.device_number() == "0:0"
        await write(device, 0, page(1))
        bench.fault("/one", Fault(Operation.FLUSH))
        assert device.cache is not None
        with pytest.raises(Failed):
            await device.cache.drop_caches()
        assert device.state.startswith("degraded /one cannot be written: ")
        await device.cache.drop_caches()
        assert device.state == "running"
        await write(device, 0, page(2))
        bench.fault("/ssd.img", Fault(Operation.FLUSH))
        with pytest.raises(Failed):
            await device.flush()
        assert device.state == "failed its cache 1 has failed"
        device.set_missing("somebody took it")
        assert device.state == "missing somebody took it"
        assert not device.present
        device.set_missing("")
        assert device.present


# The gate


@both
async def test_requests_wait_while_the_gate_is_closed(cache: int, autojump_clock: Clock) -> None:
    async with disk(cache) as device:
        await write(device, 0, page(1))
        done: list[str] = []

        async def note(name: str, request: Awaitable[object]) -> None:
            await request
            done.append(name)

        async with trio.open_nursery() as nursery:
            with device.held(), device.held():
                assert device.write_nowait(0, page(2)) == -1
                assert device.read_nowait(0, LINE) is None
                nursery.start_soon(note, "write", device.write(0, page(2)))
                nursery.start_soon(note, "flush", device.flush())
                await trio.sleep(100)
                assert done == []
            await trio.sleep(1)
            assert sorted(done) == ["flush", "write"]
        assert await read(device, 0, LINE) == page(2)


async def test_suspend_waits_for_what_was_accepted_and_makes_it_durable(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(0, bench=bench) as device:
        hang = bench.fault("/one", Fault(Operation.WRITE, Effect.HANG))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.write, 0, page(1))
            await trio.testing.wait_all_tasks_blocked()
            suspended = trio.Event()

            async def suspend() -> None:
                await device.suspend()
                suspended.set()

            nursery.start_soon(suspend)
            await trio.sleep(100)
            assert not suspended.is_set()
            hang.release()
            await suspended.wait()
            assert bench.storage.media["/one"].durable.read(0, LINE) == page(1)
        device.resume()


async def test_suspend_without_flush_just_stops(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(1, bench=bench) as device:
        await write(device, 0, page(1))
        await device.suspend(flush=False)
        assert device.suspended
        assert device.write_nowait(0, page(2)) == -1
        assert device.cache is not None
        assert device.cache.last_flushed_segment_id == 0
        device.resume()
        assert device.write_nowait(0, page(2)) == LINE


async def test_a_suspend_that_is_called_off_suspends_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(0, bench=bench) as device:
        await device.write(0, page(1))
        hang = bench.fault("/one", Fault(Operation.FLUSH, Effect.HANG))
        with trio.move_on_after(1):
            await device.suspend()
        assert not device.suspended
        hang.release()
        await device.write(0, page(2))
        assert await read(device, 0, LINE) == page(2)


async def test_a_suspend_whose_flush_fails_suspends_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(0, bench=bench, stop_fails="disk 1 could not be flushed") as device:
        await device.write(0, page(1))
        bench.fault("/one", Fault(Operation.FLUSH))
        with pytest.raises(Failed, match="/one could not be flushed"):
            await device.suspend()
        assert not device.suspended
        assert await read(device, 0, LINE) == page(1)


async def test_a_request_that_is_called_off_at_the_gate_leaves_nothing(autojump_clock: Clock) -> None:
    async with disk(1) as device:
        await device.suspend()
        with trio.move_on_after(1):
            await device.write(0, page(1))
        device.resume()
        await device.quiesce()
        assert await read(device, 0, LINE) == bytes(LINE)


async def test_a_suspended_disk_that_goes_missing_refuses_on_resume(autojump_clock: Clock) -> None:
    async with disk(1) as device:
        await device.suspend()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(Missing, match="disk 1 is missing: gone"):
                    await device.write(0, page(1))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            device.set_missing("gone")
            device.resume()
        device.set_missing("")


async def test_the_mount_stops_while_a_disk_is_suspended(autojump_clock: Clock) -> None:
    bench = Bench()
    async with disk(1, bench=bench) as device:
        await write(device, 0, page(1))
        await device.suspend(flush=False)
    assert (await bench.superblock()).clean
