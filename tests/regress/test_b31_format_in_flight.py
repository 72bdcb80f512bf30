# SPDX-License-Identifier: GPL-2.0-or-later
"""B31: dm-lc's format freed its buffer while writes of it were under way, and returned on errors with I/O still in
flight; in lcfs nothing is in flight when a format ends, however it ends, and what it ends with is the old cache or the
new one."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from lcfs.engine import Superblock, read_superblock, read_superblocks
from lcfs.engine.formatting import format_image
from lcfs.testing import Effect, Operation, keep_all, lose_all
from lcfs.testing.crash_states import crash_points, survivals
from tests.regress.support import IMAGE, LINE, LOG_START, MIB, Rig, found_after, lines, read_all, write

OTHER = "/other.img"


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.FLUSH])
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.HANG])
async def test_nothing_is_in_flight_afterwards(
    autojump_clock: trio.testing.MockClock, operation: Operation, skip: int, effect: Effect
) -> None:
    rig = Rig()
    rig.storage.add(OTHER, 8 * MIB)
    store = await rig.storage.open(OTHER)
    rig.delays[OTHER].writes = 0.5
    rig.fault(OTHER, operation, effect, skip=skip)
    with trio.move_on_after(10) as scope:
        try:
            await format_image(store)
        except OSError:
            assert effect is Effect.ERROR
        else:
            pytest.fail("the format should have met the fault")
    assert scope.cancelled_caught == (effect is Effect.HANG)
    assert all(call.ended is not None for call in rig.log.calls)
    calls = len(rig.log.calls)
    await trio.sleep(60)
    assert len(rig.log.calls) == calls


async def test_a_format_writes_its_superblocks_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.storage.add(OTHER, 8 * MIB)
    async with rig.mounted({1: MIB}) as manager:
        rig.log.clear()
        await manager.message(f"format_cache_device {OTHER}")
        writes = rig.log.of(Operation.WRITE)
        assert {call.store for call in writes} == {OTHER}
        assert all(call.offset + call.length <= LOG_START for call in writes)
        assert sum(call.length for call in writes) < 64 * LINE
        assert rig.log.calls[-1].operation is Operation.FLUSH
        assert not rig.storage.is_open(OTHER)


@pytest.mark.parametrize("commits", [0, 1])
async def test_a_crash_leaves_the_old_cache_or_the_new_one(autojump_clock: trio.testing.MockClock, commits: int) -> None:
    rig = Rig()
    await rig.format(4, 8)
    async with rig.mounted({1: 32 * LINE}) as manager:
        # the two superblock copies differ, and the slot that the tail of the older one names was used again
        cache, disk = manager.caches[1], manager.devices[1]
        for _ in range(commits):
            await cache.commit_super_block()
        await write(disk, 0, lines(1, 0, 14, 1))
        await cache.drop_caches()
        await write(disk, 0, lines(1, 0, 20, 2))
        await disk.flush()
        wanted, newest = await read_all(disk), manager.caches[1].current_segment_id
        rig = rig.crash(lose_all)
    image = rig.storage.media[IMAGE]
    store = await rig.storage.open(IMAGE)
    copies = [copy for copy in (await read_superblocks(store)).copies if isinstance(copy, Superblock)]
    assert len({copy.tail for copy in copies}) == 2
    assert newest - min(copy.tail for copy in copies) >= 4
    old = copies[0].uuid
    media = rig.crash(keep_all).storage.media
    began = rig.log.tick()
    rig.log.clear()
    new = (await format_image(store, blocks_per_segment=8)).uuid
    await store.close()
    assert image.live != media[IMAGE].live

    found: set[str] = set()
    rng = random.Random(31)
    for point in crash_points(media, rig.log, began):
        for survival in survivals(point.pending, rng):
            after = found_after(point, survival)
            store = await after.storage.open(IMAGE)
            uuid = (await read_superblock(store)).uuid
            await store.close()
            assert uuid in (old, new)
            found.add("old" if uuid == old else "new")
            async with after.mounted() as manager:
                if uuid == old:
                    assert await read_all(manager.devices[1]) == wanted, f"power cut at {point.at}"
                else:
                    assert not manager.devices
    assert found == {"old", "new"}
