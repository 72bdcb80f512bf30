# SPDX-License-Identifier: GPL-2.0-or-later
import errno
from uuid import uuid4

import outcome
import pytest
import trio

from lcfs.engine.block_store import Label
from lcfs.testing import Medium, MemoryStore, SparseImage, keep_all, lose_all


async def read(store: MemoryStore, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    await store.readinto(offset, memoryview(buffer))
    return bytes(buffer)


async def test_only_a_flush_makes_a_write_durable() -> None:
    store = MemoryStore.of_size(8192)
    await store.write(100, [b"ab", memoryview(b"cd")])
    assert await read(store, 99, 6) == b"\0abcd\0"
    assert store.medium.crash(lose_all).live == SparseImage(8192)
    assert store.medium.crash(keep_all).live == store.medium.live
    await store.flush()
    assert store.medium.crash(lose_all).live == store.medium.live


async def test_a_write_that_returns_during_a_flush_is_not_covered() -> None:
    store = MemoryStore.of_size(8192)
    await store.write(0, [b"before"])
    flush = store.flush()
    flush.send(None)  # to its checkpoint
    await store.write(4096, [b"during"])
    with pytest.raises(StopIteration):
        flush.send(outcome.Value(None))
    assert store.medium.durable.read(0, 6) == b"before"
    assert store.medium.durable.read(4096, 6) == bytes(6)
    assert store.medium.crash(keep_all).live.read(4096, 6) == b"during"


async def test_a_crash_leaves_the_old_world_running() -> None:
    store = MemoryStore.of_size(4096)
    await store.write(0, [b"one"])
    after = store.medium.crash(keep_all)
    await store.write(0, [b"two"])
    await store.flush()
    assert after.live.read(0, 3) == b"one"
    assert after.unsynced.writes == []


async def test_a_cancelled_write_is_not_read_but_may_survive_until_close() -> None:
    store = MemoryStore.of_size(4096)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write(0, [b"x"])
    assert await read(store, 0, 1) == b"\0"
    await store.flush()
    assert store.medium.crash(keep_all).live.read(0, 1) == b"x"
    assert store.medium.crash(lose_all).live.read(0, 1) == b"\0"
    await store.close()
    assert store.medium.unsynced.writes == []


async def test_a_buffer_that_changes_under_a_write_is_caught() -> None:
    store = MemoryStore.of_size(4096)
    buffer = bytearray(b"a" * 512)
    write = store.write(0, [buffer])
    write.send(None)
    buffer[100] = 0
    with pytest.raises(AssertionError, match="buffer changed"):
        write.send(outcome.Value(None))


async def test_reads_in_place_unless_told_otherwise() -> None:
    buffer = memoryview(bytearray(4))
    assert MemoryStore.of_size(4096).readinto_nowait(0, buffer)
    assert not MemoryStore.of_size(4096, nowait=False).readinto_nowait(0, buffer)
    assert not MemoryStore.of_size(4096).readinto_nowait(4094, buffer)


@pytest.mark.parametrize("yields", [True, False])
async def test_yields_only_when_asked(yields: bool) -> None:
    store = MemoryStore.of_size(4096, yields=yields)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write(0, [b"x"])
        await store.flush()
        await read(store, 0, 1)
    assert scope.cancelled_caught is yields
    assert (store.medium.durable.read(0, 1) == b"x") is not yields


@pytest.mark.parametrize("offset", [-1, 4095, 4096])
async def test_the_end_is_the_end(offset: int) -> None:
    store = MemoryStore.of_size(4096)
    with pytest.raises(OSError) as caught:
        await store.write(offset, [b"ab"])
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        await read(store, offset, 2)
    assert caught.value.errno == errno.EIO
    assert store.medium.live == SparseImage(4096)


async def test_nothing_works_once_closed_and_no_write_when_readonly() -> None:
    medium = Medium(SparseImage(4096))
    store = MemoryStore(medium, readonly=True)
    with pytest.raises(OSError, match="reading only"):
        await store.write(0, [b"x"])
    with pytest.raises(OSError, match="reading only"):
        await store.write_label(Label(uuid4(), 1))
    await store.close()
    for call in (store.flush(), store.read_label(), store.write(0, [b"x"]), read(store, 0, 1)):
        with pytest.raises(OSError, match="closed"):
            await call
    assert not store.readinto_nowait(0, memoryview(bytearray(1)))


async def test_a_discarded_range_is_not_zero_and_may_or_may_not_be_discarded_after_a_crash() -> None:
    store = MemoryStore.of_size(8192)
    await store.write(0, [b"a" * 8192])
    await store.flush()
    await store.discard(4096, 4096)
    assert set(await read(store, 4096, 4096)) == {0xDB}
    assert store.medium.crash(lose_all).live.read(4096, 1) == b"a"
    assert store.medium.crash(keep_all).live.read(4096, 1) == b"\xdb"


async def test_labels_outlive_the_store_where_it_can_carry_them() -> None:
    label = Label(uuid4(), 7)
    for labels in (True, False):
        medium = Medium(SparseImage(4096), labels=labels)
        await MemoryStore(medium).write_label(label)
        found = await MemoryStore(medium.crash(lose_all)).read_label()
        assert found == (label if labels else None)


async def test_what_a_failed_flush_lost_reads_back_and_never_becomes_durable() -> None:
    store = MemoryStore.of_size(4096)
    await store.write(0, [b"x"])
    store.lose_unsynced()
    await store.flush()
    assert await read(store, 0, 1) == b"x"
    assert store.medium.crash(keep_all).live.read(0, 1) == b"\0"
