# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration: what lands on a backing, in which order, and what stays in the cache when it cannot."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
import trio
import trio.testing

from lcfs.engine.errors import Cancelled, Failed, InUse, Missing, NoSpace
from lcfs.engine.extents import SECTOR_RUNS
from lcfs.engine.geometry import LINE
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.rig import QUIET, Lab, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
TWO_DISKS = {1: 64 * LINE, 2: 64 * LINE}
RUNNING = {**QUIET, "allow_migrate": 1}


async def let_migrate(rig: Rig) -> None:
    await rig.cache.set_tunable("allow_migrate", 1)


def test_sector_runs_of_every_mask() -> None:
    for mask, runs in enumerate(SECTOR_RUNS):
        sectors = [sector for first, end in runs for sector in range(first // 512, end // 512)]
        assert sectors == [sector for sector in range(8) if mask >> sector & 1]
        assert all(earlier[1] < later[0] for earlier, later in pairwise(runs))


async def test_neighbours_are_one_write_in_ascending_order_and_only_dirty_sectors(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        for line in (9, 3, 8, 30, 4):
            await rig.write(1, line * LINE, page(line))
        await rig.write(1, 5 * LINE, page(5)[:1024])
        await rig.write(1, 20 * LINE + 512, page(20)[512:1024])
        await rig.write(1, 20 * LINE + 2048, page(20)[2048:2560])
        await rig.cache.drop_caches()
        assert rig.written("disk1") == [
            (3 * LINE, 2 * LINE + 1024),
            (8 * LINE, 2 * LINE),
            (20 * LINE + 512, 512),
            (20 * LINE + 2048, 512),
            (30 * LINE, LINE),
        ]
        assert rig.flushes("disk1") == 1
        assert rig.backing(1, 3 * LINE, 2 * LINE) == page(3) + page(4)
        assert rig.cache.nr_dirty_caches == 0
        rig.check_counts()


async def test_the_log_is_durable_then_the_backing_then_the_tail(autojump_clock: Clock) -> None:
    """R3, R4 for what migrates: a backing holds nothing that recovery would not find."""
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.drop_caches()
        order = [(call.store, call.operation) for call in rig.log.calls if call.operation is not Operation.READ]
        assert order == [
            ("image", Operation.WRITE),
            ("image", Operation.FLUSH),
            ("disk1", Operation.WRITE),
            ("disk1", Operation.FLUSH),
            ("image", Operation.WRITE),
            ("image", Operation.FLUSH),
        ]
        assert (await rig.lab.crash(lose_all).superblock()).tail == 2
        assert rig.cache.last_migrated_segment_id == rig.cache.last_flushed_segment_id == 1


async def test_nothing_migrates_while_it_is_not_allowed(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 30))
        await rig.cache.barrier()
        await trio.sleep(100)
        assert rig.written("disk1") == []
        await let_migrate(rig)
        await trio.sleep(1)
        assert rig.backing(1, 0, 28 * LINE) == page(1, 30)[: 28 * LINE]
        assert rig.cache.last_migrated_segment_id == 4
        # the open segment is not closed for it
        assert rig.cache.nr_dirty_caches == 2


async def test_force_migrate_allows_it_too(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 8))
        await rig.cache.set_tunable("force_migrate", 1)
        await trio.sleep(1)
        assert rig.cache.nr_dirty_caches == 1


@pytest.mark.parametrize("batch", [1, 3, 256])
async def test_a_batch_costs_one_tail_commit(batch: int, autojump_clock: Clock) -> None:
    tunables = {**QUIET, "nr_max_batched_migration": batch}
    async with Rig.running(segments=16, tunables=tunables, disks={1: 100 * LINE}) as rig:
        await rig.write(1, 0, page(1, 85))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.log.clear()
        await let_migrate(rig)
        await trio.sleep(1)
        segments = 13
        superblocks = [offset for offset, _ in rig.written() if offset < 1 << 20]
        batches = -(-segments // batch)
        # allow_migrate was set with a commit of both copies
        assert len(superblocks) == 2 + batches
        assert rig.flushes("disk1") == batches
        assert rig.cache.last_migrated_segment_id == segments


async def test_migration_begins_before_the_ring_is_full(autojump_clock: Clock) -> None:
    async with Rig.running(segments=32, disks={1: 400 * LINE}, tunables={**QUIET, "update_interval": 3600}) as rig:
        await rig.write(1, 0, page(1, 32 * 7 - 20))
        await trio.sleep(1)
        assert rig.cache.ring.nr_free >= 4
        assert rig.written("disk1") != []


# Versions


async def test_a_line_overwritten_while_it_migrates_stays_dirty_and_lands_later(autojump_clock: Clock) -> None:
    async with Rig.running(tunables=RUNNING) as rig:
        hang = rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG))
        await rig.write(1, 0, page(1, 7))
        await rig.write(1, 7 * LINE, page(8))
        await trio.sleep(1)
        await rig.write(1, 0, page(9))
        hang.release()
        await trio.sleep(1)
        assert rig.backing(1, 0, LINE) == page(1)
        assert await rig.read(1, 0, LINE) == page(9)
        assert rig.cache.nr_dirty_caches == 2
        rig.check_counts()
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, LINE) == page(9)


async def test_an_older_version_never_lands_on_a_newer_one(autojump_clock: Clock) -> None:
    """B08: a hung write of version 1 and a drain of version 2 do not overtake each other."""
    async with Rig.running(tunables=RUNNING) as rig:
        hang = rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG))
        await rig.write(1, 0, page(1, 8))
        await trio.sleep(1)
        await rig.write(1, 0, page(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.cache.drain, rig.devices[1])
            await trio.sleep(20)
            assert len(rig.written("disk1")) == 1
            hang.release()
        assert rig.backing(1, 0, LINE) == page(2)
        assert await rig.read(1, 0, LINE) == page(2)
        rig.check_counts()


async def test_a_segment_is_kept_until_what_overtook_its_lines_is_durable(autojump_clock: Clock) -> None:
    """Given up earlier, a crash would leave neither the old version nor the new one."""
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.barrier()
        await rig.write(1, 0, page(2, 7))
        rig.log.clear()
        hang = rig.image.add(Fault(Operation.FLUSH, Effect.HANG))
        rig.cache.tunables["allow_migrate"] = 1
        rig.cache.migrator.wake()
        await trio.sleep(1)
        assert (await lab.superblock()).tail == 1
        async with lab.crash(lose_all).run() as after:
            assert await after.read(1, 0, 7 * LINE) == page(1, 7)
        hang.release()
        await trio.sleep(1)
        async with lab.crash(lose_all).run() as after:
            assert await after.read(1, 0, 7 * LINE) == page(2, 7)


async def test_writes_go_on_while_everything_drains(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        rig.backings[1].delay.writes = 0.05
        await rig.write(1, 0, page(1, 40))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.cache.drop_caches)
            for number in range(20):
                await rig.write(1, number * LINE, page(100 + number))
                await trio.sleep(0.01)
        expected = b"".join(page(100 + number) for number in range(20)) + page(1, 40)[20 * LINE :]
        assert await rig.read(1, 0, 40 * LINE) == expected
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, 40 * LINE) == expected
        rig.check_counts()


# Backings that fail, hang or are missing


async def test_a_backing_that_fails_keeps_its_lines_and_is_tried_again(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expectation = expect_log("disk 1 is degraded: disk1 cannot be written: .*; its dirty lines stay in the cache")
    async with Rig.running(tunables=RUNNING, disks=TWO_DISKS) as rig:
        fault = rig.backings[1].add(Fault(Operation.WRITE, times=None))
        await rig.write(1, 0, page(1, 7))
        await rig.write(2, 0, page(2, 8))
        await trio.sleep(0.5)
        assert rig.devices[1].fault.startswith("disk1 cannot be written")
        assert rig.cache.state == "running"
        assert rig.backing(2, 0, 7 * LINE) == page(2, 8)[: 7 * LINE]
        assert rig.devices[1].nr_dirty_caches == 7
        assert await rig.read(1, 0, 7 * LINE) == page(1, 7)
        await trio.sleep(200)
        # 0, 1, 3, 7, 15, 31, then each half minute
        assert 8 <= fault.met <= 13
        assert len(expectation.records) == 1
        fault.release()
        await trio.sleep(31)
        assert rig.devices[1].fault == ""
        assert rig.backing(1, 0, 7 * LINE) == page(1, 7)
        assert rig.devices[1].nr_dirty_caches == 0
        rig.check_counts()


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.LOSE])
async def test_a_flush_of_a_backing_that_fails_leaves_its_lines_dirty(
    effect: Effect, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("disk 1 is degraded")
    async with Rig.running() as rig:
        rig.backings[1].add(Fault(Operation.FLUSH, effect))
        await rig.write(1, 0, page(1))
        with pytest.raises(Failed, match="disk 1: disk1 cannot be written") as caught:
            await rig.cache.drop_caches()
        assert caught.value.errno == errno.EIO
        assert rig.cache.nr_dirty_caches == 1
        # written again, not only flushed again
        rig.log.clear()
        await rig.cache.drop_caches()
        assert rig.written("disk1") == [(0, LINE)]
        assert rig.lab.backings[1].durable.read(0, LINE) == page(1)


async def test_a_hung_backing_holds_up_only_its_own_disk(autojump_clock: Clock) -> None:
    async with Rig.running(tunables=RUNNING, disks=TWO_DISKS) as rig:
        hang = rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG, times=None))
        await rig.write(1, 0, page(1))
        for number in range(100):
            begin = trio.current_time()
            await rig.write(2, number % 60 * LINE, page(number))
            assert trio.current_time() - begin < 6
            if number % 10 == 0:
                await rig.cache.barrier()
        assert await rig.read(1, 0, LINE) == page(1)
        assert trio.current_time() < 60
        assert rig.cache.last_migrated_segment_id > 3
        hang.release()
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, LINE) == page(1)
        rig.check_counts()


async def test_lines_of_a_missing_disk_make_way_and_are_kept(autojump_clock: Clock) -> None:
    lab = await Lab.new(disks=TWO_DISKS, segments=8)
    async with lab.run(missing=[1]) as rig:
        await rig.write(1, 3 * LINE, page(1))
        await rig.write(1, 4 * LINE, page(2)[:512])
        for number in range(300):
            await rig.write(2, number % 60 * LINE, page(number))
        assert rig.cache.current_segment_id > 16
        assert rig.devices[1].nr_dirty_caches == 2
        assert await rig.read(1, 3 * LINE, LINE) == page(1)
        await rig.cache.barrier()
        rig.check_counts()
    async with lab.run() as rig:
        await rig.cache.drop_caches()
        assert rig.backing(1, 3 * LINE, LINE + 512) == page(1) + page(2)[:512]
        assert rig.backing(2, 0, 60 * LINE) == b"".join(page(number) for number in range(240, 300))


async def test_a_failing_disk_fills_its_share_and_not_the_whole_cache(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1 is degraded")
    async with Rig.running(disks=TWO_DISKS, tunables=RUNNING) as rig:
        rig.backings[1].add(Fault(Operation.WRITE, times=None))
        with pytest.raises(
            Failed, match=r"disk 1 is degraded \(disk1 cannot be written: .*\) and its share of the cache is full"
        ):
            for number in range(64):
                await rig.write(1, number * LINE, page(number))
        for number in range(100):
            await rig.write(2, number % 60 * LINE, page(number))
        assert await rig.read(2, 0, LINE) == page(60)
        rig.check_counts()


async def test_drop_caches_migrates_all_it_can_before_it_complains_of_a_missing_disk(autojump_clock: Clock) -> None:
    async with Rig.running(disks=TWO_DISKS, missing=[1]) as rig:
        await rig.write(1, 0, page(1))
        await rig.write(2, 0, page(2))
        with pytest.raises(Missing, match="the backing of disk 1 is missing") as caught:
            await rig.cache.drop_caches()
        assert caught.value.errno == errno.ENODEV
        assert rig.backing(2, 0, LINE) == page(2)
        assert (rig.devices[1].nr_dirty_caches, rig.devices[2].nr_dirty_caches) == (1, 0)


async def test_drop_caches_with_nothing_dirty_is_quiet(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.cache.drop_caches()
        assert rig.log.calls == []
        assert rig.cache.last_migrated_segment_id == 0


async def test_a_damaged_line_stays_and_everything_else_migrates(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("line 3 of disk 1 is damaged on image")
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.lab.flip(rig.index(1, 3) * LINE)
        with pytest.raises(Failed, match=r"lines of disk 1 on image are damaged and cannot be written back; run `lcfs check`"):
            await rig.cache.drop_caches()
        assert rig.backing(1, 0, 7 * LINE) == page(1, 7)[: 3 * LINE] + bytes(LINE) + page(1, 7)[4 * LINE :]
        assert rig.cache.nr_dirty_caches == 1
        assert rig.cache.state.startswith("degraded 1 damaged lines on image")
        await rig.write(1, 3 * LINE, page(9))
        assert rig.cache.state == "running"


async def test_after_a_failure_of_the_image_nothing_migrates(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed")
    async with Rig.running(tunables=RUNNING) as rig:
        rig.image.add(Fault(Operation.FLUSH))
        await rig.write(1, 0, page(1, 8))
        with pytest.raises(Failed):
            await rig.cache.barrier()
        await trio.sleep(100)
        assert rig.written("disk1") == []
        with pytest.raises(Failed):
            await rig.cache.drop_caches()


async def test_a_tail_that_cannot_be_committed_frees_nothing(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed: the superblock could not be written to image")
    async with Rig.running(segments=2) as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.barrier()
        rig.image.add(Fault(Operation.WRITE, end=1 << 20))
        with pytest.raises(Failed):
            await rig.cache.drop_caches()
        assert rig.cache.last_migrated_segment_id == 0
        assert (await rig.lab.crash(lose_all).superblock()).tail == 1


# Rot


async def rotten(rig: Rig, disk: int, line: int) -> None:
    """A line that is on the image, dirty, and wrong."""
    await rig.write(disk, line * LINE, page(line))
    await rig.cache.barrier()
    rig.cache.close_segment()
    rig.lab.flip(rig.index(disk, line) * LINE + 5)


@pytest.mark.parametrize("disks", [{1: 64 * LINE}, TWO_DISKS])
async def test_a_rotten_line_does_not_stop_the_ring(
    disks: dict[int, int], autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    """It is moved on, lap by lap, and never becomes good by that; nor after a crash."""
    expect_log("line 3 of disk 1 is damaged on image")
    expect_log("1 lines of image are damaged", at_least=0)
    lab = await Lab.new(disks=disks, segments=5)
    other = max(disks)
    async with lab.run() as rig:
        await rotten(rig, 1, 3)
        for number in range(200):
            await rig.write(other, (10 + number % 50) * LINE, page(number))
        assert rig.cache.current_segment_id > 20
        with pytest.raises(Failed, match="line 3 of disk 1 is damaged"):
            await rig.read(1, 3 * LINE, LINE)
        assert rig.cache.state.startswith("degraded 1 damaged lines")
        await rig.cache.barrier()
        rig.check_counts()
        lab = lab.crash(lose_all)
    async with lab.run() as rig:
        assert await rig.read(other, 10 * LINE, 50 * LINE) == b"".join(page(number) for number in range(150, 200))
        with pytest.raises(Failed, match="line 3 of disk 1 is damaged"):
            await rig.read(1, 3 * LINE, LINE)
        await rig.write(1, 3 * LINE, page(999))
        await rig.cache.drop_caches()
        assert rig.backing(1, 3 * LINE, LINE) == page(999)
        assert rig.cache.state == "running"


async def test_a_bit_that_was_wrong_once_does_not_count(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.image.add(Fault(Operation.READ, Effect.CORRUPT))
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, 7 * LINE) == page(1, 7)
        assert rig.cache.state == "running"


async def test_a_line_that_can_be_read_again_later_is_written_back(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("1 lines cannot be read, from block 259 of image on; they stay dirty and are tried again")
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.barrier()
        rig.cache.close_segment()
        block = rig.index(1, 2) * LINE
        fault = rig.image.add(Fault(Operation.READ, start=block, end=block + LINE, times=None))
        with pytest.raises(Failed, match="1 lines of disk 1 cannot be read from image and stay in the cache; look at"):
            await rig.cache.drop_caches()
        assert rig.cache.state == "degraded 1 lines cannot be read from image; they stay dirty and are tried again"
        assert rig.cache.nr_dirty_caches == 1
        assert rig.backing(1, 0, 2 * LINE) == page(1, 7)[: 2 * LINE]
        fault.release()
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, 7 * LINE) == page(1, 7)
        assert rig.cache.state == "running"
        rig.check_counts()


# Calling off, and stopping


async def test_a_drop_is_called_off_and_what_is_dirty_stays(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        assert not rig.cache.cancel_drop()
        rig.backings[1].delay.writes = 100.0
        await rig.write(1, 0, page(1, 5))
        async with trio.open_nursery() as nursery:

            async def drop() -> None:
                with pytest.raises(Cancelled, match="called off; 5 lines of cache 1 are still dirty"):
                    await rig.cache.drop_caches()

            nursery.start_soon(drop)
            await trio.sleep(1)
            with pytest.raises(InUse, match="cache 1 is being dropped already; wait for it"):
                await rig.cache.drop_caches()
            assert rig.cache.cancel_drop()
        assert rig.cache.nr_dirty_caches == 5
        rig.backings[1].delay.writes = 0.0
        await rig.cache.drop_caches()
        assert rig.cache.nr_dirty_caches == 0
        assert rig.backing(1, 0, 5 * LINE) == page(1, 5)


async def test_a_drain_that_the_stop_ends_says_so(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run() as rig:
        rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG, times=None))
        await rig.write(1, 0, page(1))
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                with pytest.raises(Failed, match="disk 1 was not drained: the cache stops"):
                    await rig.cache.drain(rig.devices[1])

            nursery.start_soon(drain)
            await trio.sleep(1)
            await rig.cache.stop()
    async with lab.run() as rig:
        assert await rig.read(1, 0, LINE) == page(1)


# The superblock


async def test_no_space_for_a_tail_makes_writers_wait_or_fail_and_goes_by(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("no space", at_least=0)
    async with Rig.running(segments=3) as rig:
        full = rig.image.add(Fault(Operation.WRITE, error=errno.ENOSPC, end=1 << 20, times=None))
        with pytest.raises(NoSpace):
            for number in range(64):
                await rig.write(1, number * LINE, page(number))
        assert not rig.cache.failed
        full.release()
        await trio.sleep(60)
        for number in range(64):
            await rig.write(1, number * LINE, page(number))
        assert await rig.read(1, 0, 64 * LINE) == b"".join(page(number) for number in range(64))
        await rig.cache.barrier()
        assert rig.cache.state == "running"


async def test_a_superblock_that_hangs_fails_the_cache_in_the_end(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed: the superblock could not be written to image")
    async with Rig.running() as rig:
        rig.image.add(Fault(Operation.WRITE, Effect.HANG, end=1 << 20))
        await rig.write(1, 0, page(1))
        begin = trio.current_time()
        for _ in range(2):
            with pytest.raises(Failed):
                await rig.cache.commit_super_block()
        assert 60 < trio.current_time() - begin < 600
        assert rig.cache.failed
        assert await rig.read(1, 0, LINE) == page(1)
