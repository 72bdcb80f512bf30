# SPDX-License-Identifier: GPL-2.0-or-later
"""ForgetfulStore and LayeredStorage: what is below at any moment is what a killed process leaves."""

import errno
import random
from pathlib import Path

import pytest
import trio

from lcfs.engine import FileStorage
from lcfs.engine.block_store import BlockStore
from lcfs.engine.errors import NoSuchThing
from lcfs.testing import ALL, DelayStore, ForgetfulStore, LayeredStorage, MemoryStore, UnsyncedWrite, keep_random


async def read(store: BlockStore, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    if not store.readinto_nowait(offset, memoryview(buffer)):
        await store.readinto(offset, memoryview(buffer))
    return bytes(buffer)


def below(memory: MemoryStore, offset: int, length: int) -> bytes:
    return memory.medium.live.read(offset, length)


@pytest.mark.parametrize("nowait", [True, False])
async def test_what_was_not_flushed_is_read_and_is_not_below(nowait: bool) -> None:
    memory = MemoryStore.of_size(8192, nowait=nowait)
    store = ForgetfulStore(memory)
    await store.write(512, [b"a" * 512, b"b" * 512])
    await store.write_extents([(1024, [b"c" * 512]), (4096, [b"d" * 512])])
    assert await read(store, 500, 1100) == bytes(12) + b"a" * 512 + b"c" * 512 + bytes(64)
    assert below(memory, 0, 8192) == bytes(8192)
    await store.flush()
    assert below(memory, 0, 8192) == bytes(512) + b"a" * 512 + b"c" * 512 + bytes(2560) + b"d" * 512 + bytes(3584)
    assert memory.medium.durable == memory.medium.live
    assert await read(store, 500, 1100) == bytes(12) + b"a" * 512 + b"c" * 512 + bytes(64)


async def test_a_part_of_a_sector_keeps_the_rest_of_it() -> None:
    memory = MemoryStore.of_size(1300)
    store = ForgetfulStore(memory)
    await store.write(0, [b"a" * 600])
    await store.write(100, [b"b" * 500])
    await store.write(1290, [b"c" * 10])
    await store.flush()
    assert below(memory, 0, 700) == b"a" * 100 + b"b" * 500 + bytes(100)
    assert below(memory, 1280, 20) == bytes(10) + b"c" * 10


async def test_what_is_chosen_is_below_at_once_torn_at_sectors() -> None:
    memory = MemoryStore.of_size(4096)
    masks = iter([0b101, ALL, 0])
    store = ForgetfulStore(memory, lambda writes: [next(masks) for _ in writes])
    await store.write(0, [b"a" * 1536])
    assert below(memory, 0, 1536) == b"a" * 512 + bytes(512) + b"a" * 512
    await store.write(512, [b"b" * 512])
    await store.write(512, [b"c" * 512])
    assert below(memory, 0, 1536) == b"a" * 512 + b"b" * 512 + b"a" * 512
    assert await read(store, 0, 1536) == b"a" * 512 + b"c" * 512 + b"a" * 512


async def test_a_flush_brings_the_chosen_first(autojump_clock: trio.testing.MockClock) -> None:
    """Death between its two steps leaves those and nothing else."""
    memory = MemoryStore.of_size(4096)
    chosen: list[list[UnsyncedWrite]] = []

    def choose(writes: list[UnsyncedWrite]) -> list[int]:
        chosen.append(writes)
        return [0b10 if len(chosen) == 3 and write.offset == 0 else 0 for write in writes]

    store = ForgetfulStore(DelayStore(memory, writes=1), choose)
    await store.write(0, [b"a" * 1024])
    await store.write(2048, [b"b" * 512])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        await trio.sleep(1.5)
        assert below(memory, 0, 4096) == bytes(512) + b"a" * 512 + bytes(3072)
    assert below(memory, 0, 4096) == b"a" * 1024 + bytes(1024) + b"b" * 512 + bytes(1536)


async def test_an_older_version_never_follows_a_newer_one(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryStore.of_size(4096)
    delay = DelayStore(memory, writes=1)
    store = ForgetfulStore(delay, lambda writes: [ALL for _ in writes])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 0, [b"1" * 512])
        await trio.sleep(0.5)
        delay.writes = 0.1
        nursery.start_soon(store.write, 0, [b"2" * 512])
        await trio.sleep(0.01)
        nursery.start_soon(store.flush)
    assert below(memory, 0, 1) == b"2"


async def test_a_read_that_a_flush_overtakes_is_not_of_the_past(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryStore.of_size(4096, nowait=False)

    class LateAnswer(DelayStore):
        async def readinto(self, offset: int, buffer: memoryview) -> None:
            await memory.readinto(offset, buffer)
            await trio.sleep(1)

    store = ForgetfulStore(LateAnswer(memory))
    await store.write(0, [b"new" + bytes(509)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        assert await read(store, 0, 3) == b"new"
    assert below(memory, 0, 3) == b"new"


async def test_a_flush_covers_what_returned_before_it_alone(autojump_clock: trio.testing.MockClock) -> None:
    memory = MemoryStore.of_size(4096)
    store = ForgetfulStore(DelayStore(memory, writes=1))
    await store.write(0, [b"a" * 512])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        await trio.sleep(0.5)
        await store.write(0, [b"b" * 512])
        assert await read(store, 0, 1) == b"b"
    assert below(memory, 0, 1) == b"a"
    assert await read(store, 0, 1) == b"b"


async def test_no_write_crosses_the_end() -> None:
    store = ForgetfulStore(MemoryStore.of_size(1024))
    for offset, data in ((1024, b"x"), (512, b"x" * 513), (-1, b"x")):
        with pytest.raises(OSError) as caught:
            await store.write(offset, [data])
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("seed", range(20))
async def test_below_is_always_a_version_not_older_than_the_flushed_one(seed: int) -> None:
    rng = random.Random(seed)
    memory = MemoryStore.of_size(16 * 512)
    store = ForgetfulStore(memory, keep_random(rng))
    allowed = [{0} for _ in range(16)]
    for number in range(1, 200):
        first = rng.randrange(16)
        count = rng.randrange(1, 17 - first)
        await store.write(first * 512, [bytes([number]) * (512 * count)])
        for sector in range(first, first + count):
            allowed[sector].add(number)
        if rng.random() < 0.2:
            await store.flush()
            allowed = [{max(numbers)} for numbers in allowed]
        found = [below(memory, sector * 512, 1)[0] for sector in range(16)]
        assert all(number in numbers for number, numbers in zip(found, allowed, strict=True)), (number, found, allowed)
        assert [(await read(store, sector * 512, 1))[0] for sector in range(16)] == [max(numbers) for numbers in allowed]


async def test_layers_on_files(tmp_path: Path) -> None:
    storage = LayeredStorage(FileStorage(), lambda path, store: ForgetfulStore(store))
    path = str(tmp_path / "image")
    created = await storage.create(path, 4096)
    await created.write(0, [b"a" * 512])
    assert (tmp_path / "image").read_bytes() == bytes(4096)
    await created.flush()
    await created.close()
    opened = await storage.open(path, readonly=True)
    assert await read(opened, 0, 2) == b"aa"
    await opened.close()
    assert storage.exists(path) and storage.same(path, f"{tmp_path}/./image")
    assert storage.canonical(f"{tmp_path}/./image") == path
    await storage.remove(path)
    assert not storage.exists(path)
    with pytest.raises(NoSuchThing):
        await storage.open(path)
