# SPDX-License-Identifier: GPL-2.0-or-later
import errno
from uuid import uuid4

import pytest
import trio

from lcfs.engine.block_store import BlockStore, Label
from lcfs.testing import (
    ALL,
    CrashStore,
    DelayStore,
    Effect,
    Fault,
    FaultStore,
    Layer,
    Log,
    LogStore,
    MemoryStore,
    Operation,
    SparseImage,
    keep_all,
    lose_all,
)


async def read(store: BlockStore, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    if not store.readinto_nowait(offset, memoryview(buffer)):
        await store.readinto(offset, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("layer", [Layer, DelayStore, FaultStore, LogStore])
@pytest.mark.parametrize("nowait", [True, False])
async def test_a_layer_hands_everything_on(layer: type[Layer], nowait: bool) -> None:
    memory = MemoryStore.of_size(8192, "below", nowait=nowait)
    store = layer(memory)
    assert (store.name, store.size, store.device_number(), store.busy_ms()) == ("below", 8192, "0:0", None)
    await store.write(10, [b"ab", b"cd"])
    await store.write_extents([(100, [b"x"]), (200, [b"y"])])
    await store.discard(4096, 512)
    assert memory.medium.durable == SparseImage(8192)
    await store.flush()
    assert memory.medium.durable == memory.medium.live
    assert await read(store, 9, 6) == b"\0abcd\0"
    assert await read(store, 200, 1) == b"y"
    assert await read(store, 4096, 1) == b"\xdb"
    label = Label(uuid4(), 1)
    await store.write_label(label)
    assert await store.read_label() == label
    await store.write(10, [b"zz"])
    store.lose_unsynced()
    await store.flush()
    assert memory.medium.durable.read(10, 2) == b"ab"
    await store.close()
    assert memory.closed


async def test_delay_waits_its_time_and_calls_wait_side_by_side(autojump_clock: trio.testing.MockClock) -> None:
    store = DelayStore(MemoryStore.of_size(4096), reads=3, writes=5, flushes=7)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 0, [b"a"])
        nursery.start_soon(store.write, 1, [b"b"])
        nursery.start_soon(store.discard, 2, 1)
    assert trio.current_time() - begin == pytest.approx(5)
    assert await read(store, 0, 3) == b"ab\xdb"
    await store.flush()
    assert trio.current_time() - begin == pytest.approx(15)
    store.reads = 0
    assert store.readinto_nowait(0, memoryview(bytearray(1)))


async def test_the_nth_call_of_a_kind_fails_once() -> None:
    store = FaultStore(MemoryStore.of_size(4096))
    fault = store.add(Fault(Operation.WRITE, error=errno.ENOSPC, skip=1))
    await store.write(0, [b"1"])
    await store.flush()
    with pytest.raises(OSError, match="injected") as caught:
        await store.write(1, [b"2"])
    assert caught.value.errno == errno.ENOSPC
    await store.write(2, [b"3"])
    assert fault.met == 1
    assert await read(store, 0, 3) == b"1\x003"


async def test_a_range_fails_until_released() -> None:
    store = FaultStore(MemoryStore.of_size(8192))
    fault = store.add(Fault(Operation.READ, times=None, start=512, end=1024))
    assert await read(store, 0, 512) == bytes(512)
    assert await read(store, 1024, 512) == bytes(512)
    for offset, length in ((512, 1), (0, 513), (1023, 1), (600, 4096)):
        with pytest.raises(OSError):
            await read(store, offset, length)
    assert fault.met == 4
    fault.release()
    assert await read(store, 512, 512) == bytes(512)
    assert store.readinto_nowait(512, memoryview(bytearray(1)))


async def test_a_short_call_does_half_and_fails() -> None:
    memory = MemoryStore.of_size(4096)
    store = FaultStore(memory, Fault(Operation.WRITE, Effect.SHORT), Fault(Operation.READ, Effect.SHORT))
    with pytest.raises(OSError):
        await store.write(0, [b"a" * 1024, b"b" * 1024])
    assert memory.medium.live.read(0, 2048) == b"a" * 1024 + bytes(1024)
    buffer = bytearray(2048)
    with pytest.raises(OSError):
        await store.readinto(0, memoryview(buffer))
    assert buffer == b"a" * 1024 + bytes(1024)


async def test_a_flush_fails_without_with_and_against_its_effect() -> None:
    memory = MemoryStore.of_size(4096)
    store = FaultStore(memory)
    for effect, after_failure, after_retry in (
        (Effect.ERROR, b"\0", b"e"),
        (Effect.DONE, b"d", b"d"),
        (Effect.LOSE, b"d", b"d"),
    ):
        await store.write(0, [effect.value[:1].encode()])
        store.add(Fault(Operation.FLUSH, effect))
        with pytest.raises(OSError):
            await store.flush()
        assert memory.medium.durable.read(0, 1) == after_failure
        await store.flush()
        assert memory.medium.durable.read(0, 1) == after_retry


async def test_a_write_that_is_done_and_fails() -> None:
    memory = MemoryStore.of_size(4096)
    store = FaultStore(memory, Fault(Operation.WRITE, Effect.DONE))
    with pytest.raises(OSError):
        await store.write(0, [b"x"])
    assert memory.medium.live.read(0, 1) == b"x"


async def test_a_hung_call_goes_through_when_released_and_ends_when_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore.of_size(4096)
    store = FaultStore(memory)
    fault = store.add(Fault(Operation.WRITE, Effect.HANG, times=None))
    with trio.move_on_after(1000) as scope:
        await store.write(0, [b"x"])
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 1, [b"y"])
        await trio.sleep(1000)
        assert memory.medium.live.read(0, 2) == bytes(2)
        fault.release()
    await store.write(2, [b"z"])
    assert memory.medium.live.read(0, 3) == b"\0yz"


async def test_a_corrupt_read_succeeds_with_one_bit_flipped() -> None:
    store = FaultStore(MemoryStore.of_size(4096), Fault(Operation.READ, Effect.CORRUPT))
    wrong = await read(store, 0, 512)
    assert sum(byte.bit_count() for byte in wrong) == 1
    assert await read(store, 0, 512) == bytes(512)


async def test_discard_and_label_can_fail_too() -> None:
    store = FaultStore(MemoryStore.of_size(4096), Fault(Operation.DISCARD), Fault(Operation.LABEL), Fault(Operation.LABEL))
    with pytest.raises(OSError):
        await store.discard(0, 512)
    with pytest.raises(OSError):
        await store.read_label()
    with pytest.raises(OSError):
        await store.write_label(Label(uuid4(), 1))
    assert await store.read_label() is None


async def test_the_log_orders_the_calls_of_all_its_stores() -> None:
    log = Log()
    cache = LogStore(MemoryStore.of_size(8192, "cache"), log)
    faulty = FaultStore(MemoryStore.of_size(8192, "backing"), Fault(Operation.FLUSH))
    backing = LogStore(faulty, log)
    await cache.write(4096, [b"ab", b"c"])
    between = log.tick()
    with pytest.raises(OSError):
        await backing.flush()
    assert backing.readinto_nowait(0, memoryview(bytearray(512)))
    await backing.readinto(0, memoryview(bytearray(512)))
    write, flush = log.calls[:2]
    assert (write.store, write.operation, write.offset, write.length, write.data) == (
        "cache",
        Operation.WRITE,
        4096,
        3,
        b"abc",
    )
    assert write.ended is not None and write.began < write.ended < between < flush.began
    assert isinstance(flush.error, OSError) and write.error is None
    assert log.count(Operation.READ) == log.count(Operation.READ, "backing") == 2
    assert log.count(Operation.READ, "cache") == 0
    assert log.bytes_of(Operation.READ) == 1024
    log.clear()
    assert log.count(Operation.FLUSH) == 0 and log.now > between


async def test_a_cancelled_call_is_logged_as_such() -> None:
    store = LogStore(MemoryStore.of_size(4096))
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write(0, [b"x"])
    (call,) = store.log.calls
    assert isinstance(call.error, trio.Cancelled) and call.ended is not None


async def test_crash_store_reads_what_was_written_and_keeps_what_was_flushed() -> None:
    memory = MemoryStore.of_size(8192, nowait=False)
    store = CrashStore(memory)
    await store.write(0, [b"a" * 1024])
    await store.write(512, [b"b" * 1024])
    assert await read(store, 256, 1024) == b"a" * 256 + b"b" * 768
    assert memory.medium.live == SparseImage(8192)
    await store.flush()
    assert memory.medium.durable.read(0, 1536) == b"a" * 512 + b"b" * 1024
    await store.write(0, [b"c" * 512])
    await store.crash(lose_all)
    assert memory.medium.durable.read(0, 1) == b"a"
    for call in (store.flush(), store.write(0, [b"x"]), read(store, 0, 1), store.discard(0, 512)):
        with pytest.raises(OSError) as caught:
            await call
        assert caught.value.errno == errno.ENODEV


async def test_crash_store_tears_and_picks() -> None:
    for survival, expected in (
        ([ALL, 0], b"a" * 1024),
        ([0, ALL], bytes(512) + b"b" * 512),
        ([0b01, 0], b"a" * 512 + bytes(512)),
        (keep_all([None, None]), b"a" * 512 + b"b" * 512),  # type: ignore[list-item]
    ):
        memory = MemoryStore.of_size(4096)
        store = CrashStore(memory)
        await store.write(0, [b"a" * 1024])
        await store.write(512, [b"b" * 512])
        await store.crash(lambda writes, survival=survival: survival)
        assert memory.medium.durable.read(0, 1024) == expected


async def test_crash_store_keeps_a_part_of_a_sector_with_the_rest_of_it() -> None:
    memory = MemoryStore.of_size(4096)
    store = CrashStore(memory)
    await store.write(0, [b"a" * 512])
    await store.write(100, [b"b" * 100])
    await store.crash(lambda writes: [0, ALL])
    assert memory.medium.durable.read(0, 512) == b"a" * 100 + b"b" * 100 + b"a" * 312


async def test_crash_store_flushes_side_by_side_never_bring_back_an_older_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore.of_size(4096)
    delay = DelayStore(memory, writes=1)
    store = CrashStore(delay)
    await store.write(0, [b"old"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        await trio.sleep(0.5)
        await store.write(0, [b"new"])
        delay.writes = 0.1
        nursery.start_soon(store.flush)
    assert memory.medium.durable.read(0, 3) == b"new"
    assert await read(store, 0, 3) == b"new"


async def test_crash_store_reads_what_a_flush_carries_away_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    delay = DelayStore(MemoryStore.of_size(4096))
    store = CrashStore(delay)
    await store.write(0, [b"new"])
    buffer = bytearray(3)

    class ReadsEarly(DelayStore):
        async def readinto(self, offset: int, into: memoryview) -> None:
            await self.next.readinto(offset, into)
            await trio.sleep(1)

    store.next = ReadsEarly(delay)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.readinto, 0, memoryview(buffer))
        nursery.start_soon(store.flush)
    assert store.unsynced.writes == []
    assert buffer == b"new"


async def test_crash_store_loses_what_a_failed_flush_covered() -> None:
    store = CrashStore(MemoryStore.of_size(4096))
    await store.write(0, [b"x"])
    store.lose_unsynced()
    await store.flush()
    assert await read(store, 0, 1) == b"\0"
    with pytest.raises(OSError):
        await store.write(4095, [b"ab"])
