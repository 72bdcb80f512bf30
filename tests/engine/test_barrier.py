# SPDX-License-Identifier: GPL-2.0-or-later
"""Barriers: what they wait for, whom they share a flush with, and what they tell when it fails."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
import trio
import trio.testing

from lcfs.engine.errors import Failed, NoSpace
from lcfs.engine.geometry import LINE
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.rig import QUIET, Lab, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


async def test_a_barrier_of_one_line_costs_two_blocks_and_a_flush(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 3 * LINE, page(1))
        await rig.cache.barrier()
        assert [length for _, length in rig.written()] == [2 * LINE]
        assert rig.flushes() == 1
        assert rig.written("disk1") == []


async def test_a_barrier_with_nothing_dirty_does_nothing(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.cache.barrier()
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        rig.log.clear()
        for _ in range(3):
            await rig.cache.barrier()
            await rig.cache.flush_current_buffer()
        assert rig.log.calls == []
        assert rig.cache.last_flushed_segment_id == 1


async def test_the_next_record_goes_right_behind_in_the_same_segment(autojump_clock: Clock) -> None:
    async with Rig.running(blocks=8) as rig:
        places = []
        for number in range(4):
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()
            places.append(rig.written()[-1][0] - (1 << 20))
        assert places == [0, 2 * LINE, 4 * LINE, 6 * LINE]
        assert rig.cache.current_segment_id == 1
        await rig.write(1, 9 * LINE, page(9))
        assert rig.cache.current_segment_id == 2


async def test_what_a_barrier_covers_survives_a_loss_of_power(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.cache.barrier()
        await rig.write(1, 0, page(2, 3))
        crashed = lab.crash(lose_all)
    async with crashed.run() as rig:
        assert await rig.read(1, 0, 3 * LINE) == page(1, 3)


async def test_a_lone_barrier_does_not_wait_for_the_deadline(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={**QUIET, "barrier_deadline_ms": 1000}) as rig:
        for number in range(5):
            await rig.write(1, 0, page(number))
            begin = trio.current_time()
            await rig.cache.barrier()
            assert trio.current_time() == begin


async def test_those_who_come_during_a_flush_share_the_next(autojump_clock: Clock) -> None:
    async with Rig.running(segments=40) as rig:
        rig.image.delay.flushes = 1.0

        async def one(number: int) -> None:
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert rig.flushes() <= 3
        assert trio.current_time() < 5


async def test_many_writers_in_step_share_most_flushes(autojump_clock: Clock) -> None:
    """128 concurrent barriers on a slow image need at most 64 flushes; in step they need far fewer."""
    async with Rig.running(segments=300) as rig:
        rig.image.delay.flushes = 0.01

        async def one(number: int) -> None:
            for _ in range(4):
                await rig.write(1, (number % 64) * LINE, page(number))
                await rig.cache.barrier()

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(one, number)
        assert rig.flushes() <= 16


async def test_company_is_waited_for_no_longer_than_the_deadline(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={**QUIET, "barrier_deadline_ms": 200}) as rig:
        rig.image.delay.flushes = 1.0

        async def one(number: int) -> None:
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)
        # several were let go together; this one is alone, and must not wait for the others for ever
        begin = trio.current_time()
        await one(9)
        assert trio.current_time() - begin <= 1.0 + 0.2 + 1e-6


async def test_one_flush_is_in_flight_at_a_time(autojump_clock: Clock) -> None:
    async with Rig.running(segments=40) as rig:
        rig.image.delay.flushes = 0.5

        async def one(number: int) -> None:
            await trio.sleep(number * 0.2)
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, number)
            nursery.start_soon(rig.cache.commit_super_block)
        spans = sorted((call.began, call.ended) for call in rig.log.of(Operation.FLUSH, "image"))
        assert len(spans) > 2
        for (_, ended), (began, _) in pairwise(spans):
            assert ended is not None
            assert ended < began


async def test_what_is_written_during_a_flush_is_not_covered_by_it(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run() as rig, trio.open_nursery() as nursery:
        flush = rig.image.add(Fault(Operation.FLUSH, Effect.HANG))
        await rig.write(1, 0, page(1))
        nursery.start_soon(rig.cache.barrier)
        await trio.testing.wait_all_tasks_blocked()
        await rig.write(1, LINE, page(2))
        second = trio.Event()

        async def wait() -> None:
            await rig.cache.barrier()
            second.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        again = rig.image.add(Fault(Operation.FLUSH, Effect.HANG))
        flush.release()
        await trio.testing.wait_all_tasks_blocked()
        assert rig.cache.barriers.durable == rig.cache.geometry.position(1, 2)
        assert not second.is_set()
        again.release()
        await second.wait()


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.LOSE, Effect.DONE])
async def test_a_flush_that_fails_fails_all_who_depend_on_it_for_good(
    effect: Effect, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("cache 1 has failed: image could not be flushed")
    async with Rig.running() as rig:
        rig.image.add(Fault(Operation.FLUSH, effect))
        failures: list[Failed] = []

        async def one(number: int) -> None:
            await rig.write(1, number * LINE, page(number))
            try:
                await rig.cache.barrier()
            except Failed as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(one, number)
        assert len(failures) == 3
        assert all(exc.errno == errno.EIO for exc in failures)
        assert rig.cache.state.startswith("failed image could not be flushed")
        # a flush that failed once is never trusted on a retry
        with pytest.raises(Failed, match="unmount, repair the device, mount again"):
            await rig.cache.barrier()
        # what is in RAM is still read, and writes are taken while buffers last
        assert await rig.read(1, LINE, LINE) == page(1)
        await rig.write(1, 5 * LINE, page(5))
        assert await rig.read(1, 5 * LINE, LINE) == page(5)


async def test_a_log_write_that_fails_fails_the_barrier(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("write to image failed")
    expect_log("cache 1 has failed: the log could not be written to image", at_least=1)
    async with Rig.running() as rig:
        rig.image.add(Fault(Operation.WRITE, times=None))
        await rig.write(1, 0, page(1))
        with pytest.raises(Failed, match="the log could not be written"):
            await rig.cache.barrier()
        with pytest.raises(Failed):
            await rig.cache.commit_super_block()


async def test_a_log_write_that_fails_now_and_then_does_not(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("write to image failed")
    async with Rig.running() as rig:
        rig.image.add(Fault(Operation.WRITE, Effect.SHORT, times=2))
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        assert rig.cache.state == "running"


async def test_no_space_fails_barriers_until_there_is_some(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("no space left for image; barriers fail until there is room")
    expect_log("there is space again for image")
    async with Rig.running() as rig:
        full = rig.image.add(Fault(Operation.WRITE, error=errno.ENOSPC, times=None))
        await rig.write(1, 0, page(1))
        for _ in range(2):
            with pytest.raises(NoSpace, match="no space left for image; free some, writing goes on by itself") as caught:
                await rig.cache.barrier()
            assert caught.value.errno == errno.ENOSPC
        assert rig.cache.state.startswith("degraded no space left for image")
        assert await rig.read(1, 0, LINE) == page(1)
        full.release()
        await trio.sleep(2)
        await rig.cache.barrier()
        assert rig.cache.state == "running"


async def test_a_waiter_that_is_called_off_leaves_the_others(autojump_clock: Clock) -> None:
    async with Rig.running() as rig, trio.open_nursery() as nursery:
        hang = rig.image.add(Fault(Operation.FLUSH, Effect.HANG))
        await rig.write(1, 0, page(1))
        done: list[str] = []

        async def wait(name: str) -> None:
            await rig.cache.barrier()
            done.append(name)

        impatient = trio.CancelScope()

        async def wait_a_while() -> None:
            with impatient:
                await wait("impatient")

        nursery.start_soon(wait_a_while)
        nursery.start_soon(wait, "patient")
        await trio.testing.wait_all_tasks_blocked()
        impatient.cancel()
        await trio.testing.wait_all_tasks_blocked()
        hang.release()
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["patient"]


async def test_a_waiter_alone_that_is_called_off_leaves_the_daemon_well(autojump_clock: Clock) -> None:
    async with Rig.running(tunables={**QUIET, "barrier_deadline_ms": 1000}) as rig:
        rig.image.delay.flushes = 1.0
        await rig.write(1, 0, page(1))
        with trio.move_on_after(0.5):
            await rig.cache.barrier()
        await rig.write(1, LINE, page(2))
        await rig.cache.barrier()
        assert len(await rig.lab.records()) == 2


async def test_plain_writes_cause_no_flush(autojump_clock: Clock) -> None:
    async with Rig.running(segments=40, blocks=64, disks={1: 2000 * LINE}) as rig:
        for line in range(0, 1000, 4):
            await rig.write(1, line * LINE, page(line, 4))
        await trio.sleep(10)
        assert rig.flushes() == 0
        assert sum(length for _, length in rig.written()) >= 900 * LINE
