# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache as a whole: what it says of itself, its superblock, beginning and end."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from lcfs.engine.errors import Failed, Invalid, NotPermitted
from lcfs.engine.geometry import LINE
from lcfs.engine.stats import WRITE
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.rig import Lab, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


async def test_the_status_text_of_2013(autojump_clock: Clock) -> None:
    async with Rig.running(segments=20) as rig:
        await rig.write(1, 0, page(1, 9))
        await rig.write(1, 63 * LINE, page(2)[:512])
        await trio.testing.wait_all_tasks_blocked()
        lines = rig.cache.status_text().splitlines()
        assert lines[0].startswith("static RAM(approx.): ")
        assert lines[0].endswith(" (byte)")
        assert int(lines[0].split()[2]) > 0
        assert lines[1:9] == [
            "allow_migrate: 0",
            "nr_segments: 20",
            "last_migrated_segment_id: 0",
            "last_flushed_segment_id: 1",
            "current segment id: 2",
            "cursor: 9",
            "",
            "write? hit? on_buffer? fullsize?",
        ]
        assert len(lines) == 9 + 16
        assert lines[9] == "0 0 0 0 0"
        assert lines[9 + WRITE] == "1 0 0 0 1"
        assert lines[9 + 9] == "1 0 0 1 9"
        assert lines[9 + 15] == "1 1 1 1 0"


async def test_numbers(autojump_clock: Clock) -> None:
    async with Rig.running(segments=20, disks={1: 64 * LINE, 7: 64 * LINE}) as rig:
        cache = rig.cache
        assert (cache.nr_segments, cache.nr_caches) == (20, 140)
        assert [device.id for device in cache.attached_devices()] == [1, 7]
        await rig.write(1, 0, page(1, 3))
        await rig.write(7, 0, page(1, 2))
        assert cache.nr_dirty_caches == 5
        assert (rig.devices[1].nr_dirty_caches, rig.devices[7].nr_dirty_caches) == (3, 2)


@pytest.mark.parametrize(("name", "value"), [("allow_migrate", 2), ("barrier_deadline_ms", 0), ("update_interval", 3601)])
async def test_a_tunable_outside_its_range_changes_nothing(name: str, value: int, autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        before = dict(rig.cache.tunables)
        with pytest.raises(Invalid, match=f"{name} takes .*, not {value}"):
            await rig.cache.set_tunable(name, value)
        assert rig.cache.tunables == before
        assert rig.written() == []


async def test_a_commit_says_how_far_the_log_is_durable(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        await rig.write(1, LINE, page(2))
        await rig.cache.commit_super_block()
        superblock = await rig.lab.crash(lose_all).superblock()
        assert superblock.head == rig.cache.geometry.position(1, 2)
        assert not superblock.clean


async def test_a_clean_stop_says_so_in_both_copies(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run(clean=True) as rig:
        await rig.write(1, 0, page(1))
    superblock = await lab.superblock()
    assert superblock.clean
    assert superblock.head == superblock.geometry.position(1, 2)
    assert lab.image.durable == lab.image.live
    async with lab.run() as rig:
        assert not (await lab.superblock()).clean
        assert await rig.read(1, 0, LINE) == page(1)


async def test_after_the_stop_nothing_is_written(autojump_clock: Clock) -> None:
    lab = await Lab.new(tunables={"update_interval": 1, "commit_super_block_interval": 1})
    async with lab.run() as rig:
        await rig.write(1, 0, page(1, 30))
        await rig.cache.stop()
        rig.log.clear()
        await trio.sleep(1000)
        assert rig.log.calls == []


async def test_a_stop_waits_for_a_backing_that_is_being_written_but_not_for_ever(autojump_clock: Clock) -> None:
    lab = await Lab.new(tunables={"update_interval": 0, "allow_migrate": 1})
    async with lab.run() as rig:
        hang = rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG, times=None))
        await rig.write(1, 0, page(1, 8))
        await trio.sleep(1)
        begin = trio.current_time()
        await rig.cache.stop()
        assert 1 < trio.current_time() - begin < 60
        hang.release()
    assert (await lab.superblock()).clean
    async with lab.run() as rig:
        assert await rig.read(1, 0, 8 * LINE) == page(1, 8)


async def test_a_stop_whose_flush_fails_is_not_clean(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed")
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1))
        rig.image.add(Fault(Operation.FLUSH))
        with pytest.raises(Failed):
            await rig.cache.stop()
    assert not (await lab.superblock()).clean


async def test_a_cache_that_may_not_write_refuses_to_commit(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        rig.cache.readonly = True
        with pytest.raises(NotPermitted, match="cache 1 is mounted read-only") as caught:
            await rig.cache.commit_super_block()
        assert caught.value.errno == errno.EROFS
        assert rig.written() == []


async def test_a_superblock_that_cannot_be_written_fails_the_cache(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed: the superblock could not be written to image")
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1))
        rig.image.add(Fault(Operation.WRITE, end=1 << 20))
        with pytest.raises(Failed, match="the superblock could not be written") as caught:
            await rig.cache.commit_super_block()
        assert caught.value.errno == errno.EIO
        assert rig.cache.failed
        assert rig.cache.state.startswith("failed the superblock could not be written to image")
        assert await rig.read(1, 0, LINE) == page(1)


async def test_a_disk_that_is_released_leaves_nothing_dirty(autojump_clock: Clock) -> None:
    async with Rig.running(disks={1: 64 * LINE, 2: 64 * LINE}) as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.write(2, 0, page(2))
        rig.cache.release(rig.devices[1])
        assert [device.id for device in rig.cache.attached_devices()] == [2]
        assert rig.cache.nr_dirty_caches == 1
        await rig.cache.drop_caches()
        assert rig.written("disk1") == []
        assert rig.backing(2, 0, LINE) == page(2)
