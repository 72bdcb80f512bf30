# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from lcfs.engine import flush
from lcfs.engine.flush import Flusher
from lcfs.engine.write_buffer import WriteBuffer
from lcfs.testing import Effect, Fault, Log, Medium, Operation, SparseImage
from tests.engine.rig import Stack
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
BLOCK = 4096
NR_BLOCKS = 64


@attrs.define
class Bench:
    """A flusher on an image of 64 blocks, one buffer that covers it, and what the flusher told its owner."""

    store: Stack
    buffer: WriteBuffer
    flusher: Flusher
    lock: trio.Lock
    ends: list[int] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)
    space: list[bool] = attrs.field(factory=list)

    def put(self, first: int, end: int, buffer: WriteBuffer | None = None) -> None:
        """Blocks `first..end` of the buffer, to the same place of the image; positions count blocks."""
        self.flusher.put(buffer or self.buffer, first * BLOCK, end * BLOCK, first * BLOCK, end)


def full_buffer() -> WriteBuffer:
    return WriteBuffer(memoryview(bytearray(b"".join(bytes([block + 1]) * BLOCK for block in range(NR_BLOCKS)))))


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    store = Stack(Medium(SparseImage(NR_BLOCKS * BLOCK)), "image", Log())
    ends: list[int] = []
    failures: list[str] = []
    space: list[bool] = []
    lock = trio.Lock()
    flusher = Flusher(
        store,
        0,
        on_written=lambda buffer, end: ends.append(end),
        on_failed=failures.append,
        on_no_space=space.append,
        flush_lock=lock,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        yield Bench(store, full_buffer(), flusher, lock, ends, failures, space)
        nursery.cancel_scope.cancel()


async def test_what_is_put_is_on_the_image_when_written_says_so(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.put(0, 3)
        assert b.buffer.pending == 1
        await b.flusher.wait_written(3)
        assert b.flusher.written == 3
        assert b.buffer.pending == 0
        assert b.ends == [3]
        assert b.store.medium.live.read(0, 3 * BLOCK) == b.buffer.view[: 3 * BLOCK]
        assert b.store.log.count(Operation.FLUSH) == 0


async def test_neighbours_in_one_buffer_go_out_in_one_write(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.put(0, 2)
        b.put(2, 5)
        b.put(6, 8)
        other = full_buffer()
        b.put(8, 9, other)
        assert b.buffer.pending == 3
        await b.flusher.wait_written(9)
        assert [(call.offset // BLOCK, call.length // BLOCK) for call in b.store.log.of(Operation.WRITE)] == [
            (0, 5),
            (6, 2),
            (8, 1),
        ]
        assert b.ends == [5, 8, 9]
        assert b.buffer.pending == other.pending == 0


async def test_a_long_queue_goes_out_in_its_order_a_few_writes_at_a_time(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.delay.writes = 1.0
        for at in range(0, 60, 2):
            b.put(at, at + 1)
            await trio.testing.wait_all_tasks_blocked()
        assert len([call for call in b.store.log.of(Operation.WRITE) if call.ended is None]) <= 4
        await b.flusher.wait_written(59)
        assert b.ends == list(range(1, 60, 2))
        assert [call.offset // BLOCK for call in b.store.log.of(Operation.WRITE)] == list(range(0, 60, 2))


async def test_written_moves_only_as_far_as_there_is_no_gap(autojump_clock: Clock) -> None:
    async with bench() as b:
        first = b.store.add(Fault(Operation.WRITE, Effect.HANG, end=BLOCK))
        b.put(0, 1)
        b.put(2, 3)
        b.put(4, 5)
        await trio.testing.wait_all_tasks_blocked()
        assert b.flusher.written == 0
        assert b.ends == []
        assert b.buffer.pending == 3
        first.release()
        await b.flusher.wait_written(5)
        assert b.ends == [1, 3, 5]


async def test_an_error_is_tried_again_after_a_while(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log(r"write to image failed .* attempt 1")
    expect_log(r"write to image failed .* attempt 2")
    async with bench() as b:
        b.store.add(Fault(Operation.WRITE, Effect.SHORT, times=2))
        begin = trio.current_time()
        b.put(0, 4)
        await b.flusher.wait_written(4)
        assert trio.current_time() - begin == pytest.approx(0.3)
        assert b.failures == []
        assert b.store.medium.live.read(0, 4 * BLOCK) == b.buffer.view[: 4 * BLOCK]


async def test_the_third_error_is_final(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log(r"write to image failed")
    async with bench() as b:
        b.store.add(Fault(Operation.WRITE, times=None))
        b.put(0, 1)
        b.put(2, 3)
        await trio.sleep(1)
        assert b.failures[0].startswith("the log could not be written to image:")
        assert b.flusher.written == 0
        assert b.ends == []
        assert b.buffer.pending == 2


async def test_stop_wakes_who_waits(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.add(Fault(Operation.WRITE, Effect.HANG))
        b.put(0, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.flusher.wait_written, 1)
            await trio.testing.wait_all_tasks_blocked()
            b.flusher.stop()
        await b.flusher.wait_written(1)
        assert b.flusher.written == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_file_system_is_waited_for(error: int, autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.add(Fault(Operation.WRITE, error=error, times=3))
        begin = trio.current_time()
        b.put(0, 1)
        await b.flusher.wait_written(1)
        assert b.flusher.written == 0
        assert b.flusher.waits_for_space
        assert b.space == [True]
        assert b.failures == []
        await trio.sleep(begin + 2.5 - trio.current_time())
        assert b.flusher.waits_for_space
        await trio.sleep(1)
        assert not b.flusher.waits_for_space
        assert b.space == [True, False]
        await b.flusher.wait_written(1)
        assert b.flusher.written == 1


async def test_a_barrier_that_waits_for_little_has_it_flushed_along(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.put(0, 2)
        await b.flusher.wait_written(2, flush=True)
        assert (b.flusher.written, b.flusher.flushed) == (2, 2)
        assert [call.operation for call in b.store.log.calls] == [Operation.WRITE, Operation.FLUSH]
        b.put(2, 3)
        await b.flusher.wait_written(3)
        assert (b.flusher.written, b.flusher.flushed) == (3, 2)
        assert b.store.log.count(Operation.FLUSH) == 1


async def test_what_is_long_is_not_flushed_along(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "FLUSHED_ALONG", 2 * BLOCK)
    async with bench() as b:
        b.put(0, 3)
        await b.flusher.wait_written(3, flush=True)
        assert (b.flusher.written, b.flusher.flushed) == (3, 0)
        assert b.store.log.count(Operation.FLUSH) == 0


async def test_nothing_is_held_up_by_a_flush_along(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records behind those a barrier waits for, or a flush in flight: then the flush is the barrier's."""
    monkeypatch.setattr(flush, "WRITES_PER_HOP", 1)
    async with bench() as b:
        b.put(0, 1)
        b.put(2, 3)
        await b.flusher.wait_written(1, flush=True)
        assert (b.flusher.written, b.flusher.flushed) == (1, 0)
        async with b.lock:
            b.put(4, 5)
            await b.flusher.wait_written(5, flush=True)
        assert (b.flusher.written, b.flusher.flushed) == (5, 0)
        assert b.store.log.count(Operation.FLUSH) == 0


async def test_a_flush_along_excludes_others(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.delay.flushes = 1.0

        async def barrier() -> None:
            b.put(0, 1)
            await b.flusher.wait_written(1, flush=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(barrier)
            await trio.sleep(0.5)
            assert b.lock.locked()
        assert not b.lock.locked()


async def test_a_flush_along_that_fails_is_final(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.add(Fault(Operation.FLUSH))
        b.put(0, 1)
        with trio.move_on_after(5):
            await b.flusher.wait_written(1, flush=True)
        assert [failure.split(":")[0] for failure in b.failures] == ["image could not be flushed"]
        assert (b.flusher.written, b.flusher.flushed) == (0, 0)
        assert b.store.log.count(Operation.FLUSH) == 1


async def test_what_is_put_while_others_are_written_follows(autojump_clock: Clock) -> None:
    async with bench() as b:
        b.store.delay.writes = 0.5
        b.put(0, 1)
        await trio.sleep(0.1)
        b.put(1, 2)
        b.put(2, 3)
        await b.flusher.wait_written(3)
        assert [(call.offset // BLOCK, call.length // BLOCK) for call in b.store.log.of(Operation.WRITE)] == [(0, 1), (1, 2)]
