# SPDX-License-Identifier: GPL-2.0-or-later
import random
from collections.abc import Callable
from uuid import UUID

import trio

from lcfs.engine.block_store import Label
from lcfs.testing import ALL, Log, LogStore, Medium, MemoryStorage, MemoryStore, SparseImage
from lcfs.testing.crash_states import EXHAUSTIVE, CrashPoint, crash_points, survivals

LABEL = Label(UUID(int=1), 1)


class World:
    """Two logged media."""

    def __init__(self) -> None:
        self.log = Log()
        self.before = {path: Medium(SparseImage(16384)) for path in ("a", "b")}
        self.stores = {
            path: LogStore(MemoryStore(Medium(medium.durable.copy()), path), self.log) for path, medium in self.before.items()
        }

    def points(self) -> list[CrashPoint]:
        return list(crash_points(self.before, self.log))


def possible(point: CrashPoint, read: Callable[[dict[str, Medium]], bytes]) -> set[bytes]:
    """What `read` finds over all subsets that survive."""
    return {read(point.media(survival)) for survival in survivals(point.pending, random.Random(1))}


async def test_each_boundary_has_what_was_durable_and_what_was_pending() -> None:
    world = World()
    a, b = world.stores["a"], world.stores["b"]
    await a.write(0, [b"1" * 512])
    await b.write(0, [b"2" * 512])
    await a.flush()
    await a.write(0, [b"3" * 512])
    points = world.points()

    def read(media: dict[str, Medium]) -> bytes:
        return media["a"].live.read(0, 1) + media["b"].live.read(0, 1)

    assert [possible(point, read) for point in points] == [
        {b"\0\0"},
        {b"\0\0", b"1\0"},
        {b"\0\0", b"1\0", b"\x002", b"12"},
        {b"1\0", b"12"},
        {b"1\0", b"12", b"3\0", b"32"},
    ]


async def test_a_flush_covers_only_what_returned_before_it_began() -> None:
    world = World()
    a = world.stores["a"]
    await a.write(0, [b"1" * 512])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.write, 512, [b"2" * 512])
        nursery.start_soon(a.flush)
    last = world.points()[-1]
    assert [pending.call.offset for pending in last.pending] == [512]
    assert possible(last, lambda media: media["a"].live.read(0, 1)) == {b"1"}


async def test_writes_are_torn_at_sectors() -> None:
    world = World()
    await world.stores["a"].write(0, [b"x" * 4096])
    found = {
        point.media(survival)["a"].live.read(0, 4096)
        for point in world.points()
        for seed in range(80)
        for survival in survivals(point.pending, random.Random(seed))
    }
    assert b"x" * 512 + bytes(3584) in found
    assert len(found) > 10
    for content in found:
        assert all(content[i : i + 512] in (b"x" * 512, bytes(512)) for i in range(0, 4096, 512))


async def test_a_label_is_there_or_not_while_it_is_written_and_surely_afterwards() -> None:
    world = World()
    await world.stores["a"].write_label(LABEL)
    first, during, after = world.points()
    assert first.pending == after.pending == []
    assert first.durable["a"].label is None
    assert {during.media(s)["a"].label for s in survivals(during.pending, random.Random(1))} == {None, LABEL}
    assert after.durable["a"].label == LABEL


async def test_a_discarded_range_may_still_be_there() -> None:
    world = World()
    a = world.stores["a"]
    await a.write(0, [b"x" * 512])
    await a.flush()
    await a.discard(0, 512)
    assert possible(world.points()[-1], lambda media: media["a"].live.read(0, 1)) == {b"x", b"\xdb"}


async def test_the_log_may_be_judged_from_some_tick_on() -> None:
    world = World()
    a = world.stores["a"]
    await a.write(0, [b"1" * 512])
    since = world.log.tick()
    await a.write(512, [b"2" * 512])
    points = list(crash_points(world.before, world.log, since))
    assert [len(point.pending) for point in points] == [1, 2]
    assert points[0].at >= since


def test_few_writes_are_tried_in_every_subset_and_many_in_a_sample() -> None:
    world = World()

    async def write(count: int) -> None:
        for i in range(count):
            await world.stores["a"].write(i * 512, [b"x" * 512])

    trio.run(write, EXHAUSTIVE)
    pending = world.points()[-1].pending
    subsets = [tuple(s) for s in survivals(pending, random.Random(0))]
    assert len(subsets) == len(set(subsets)) == 2**EXHAUSTIVE
    trio.run(write, 20)
    many = [tuple(s) for s in survivals(world.points()[-1].pending, random.Random(0))]
    assert (ALL,) * (EXHAUSTIVE + 20) in many and (0,) * (EXHAUSTIVE + 20) in many
    assert len(many) < 100


async def test_a_store_created_on_the_way_is_there_from_then_on() -> None:
    log = Log()
    storage = MemoryStorage(log=log)
    store = await storage.create("new", 4096)
    await store.write(0, [b"x" * 512])
    nothing, before, written = crash_points({}, log)
    assert nothing.durable == {}
    assert before.durable["/new"].durable == SparseImage(4096)
    assert possible(written, lambda media: media["/new"].live.read(0, 1)) == {b"\0", b"x"}
