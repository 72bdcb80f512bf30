# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import random
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.cache import Cache
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import SUPERBLOCK_COPIES
from lcfs.engine.errors import Damaged, Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import LineTable
from lcfs.engine.recover import PROGRESS_SEGMENTS, catch_up, resume_cache
from lcfs.engine.spec import DeviceSpec
from lcfs.engine.superblock import read_superblock
from lcfs.testing import Fault, FaultStore, Log, LogStore, MemoryStore, Operation, keep_random, lose_all
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.log_builder import Line, LogBuilder
from tests.engine.rig import Lab, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


def devices_of(log: LogBuilder) -> dict[int, CachedDevice]:
    """The attached disks, with empty backings."""
    found = {}
    for row in log.superblock.disks:
        device = found[row.id] = CachedDevice(row.id, row.size, MemoryStore.of_size(row.size, row.path))
        device.table = LineTable(device.nr_lines)
    return found


async def resume(log: LogBuilder) -> tuple[Cache, dict[int, CachedDevice]]:
    devices = devices_of(log)
    return await resume_cache(1, log.store, log.superblock, devices.values()), devices


async def content(cache: Cache, device: CachedDevice, line: int) -> bytes:
    return bytes(await cache.read(device, line * LINE, LINE))


async def test_an_empty_image_is_an_empty_cache() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    cache, _ = await resume(log)
    assert (cache.nr_dirty_caches, cache.current_segment_id, cache.last_flushed_segment_id) == (0, 0, 0)
    assert cache.last_migrated_segment_id == 0
    assert cache.state == "running"


async def test_the_newest_version_of_each_line_counts() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0), (2, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2), Line(3, 3, disk=2)])
    await log.record(1, 4, [Line(3, 4)])
    await log.record(2, 0, [Line(3, 5), Line(9, 6, disk=2)])
    cache, devices = await resume(log)
    assert await content(cache, devices[1], 3) == page(5)
    assert await content(cache, devices[1], 4) == page(2)
    assert await content(cache, devices[2], 3) == page(3)
    assert await content(cache, devices[2], 9) == page(6)
    assert await content(cache, devices[2], 4) == bytes(LINE)
    assert (devices[1].nr_dirty_caches, devices[2].nr_dirty_caches) == (2, 2)
    assert cache.last_flushed_segment_id == cache.current_segment_id == 2


async def test_of_one_line_twice_in_a_record_the_later_row_counts() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(3, 2, dirty=0), Line(3, 3), Line(3, 4)])
    cache, devices = await resume(log)
    assert await content(cache, devices[1], 3) == page(4)
    assert devices[1].nr_dirty_caches == 1 == cache.ring.recount(1)


async def test_rows_without_dirty_bits_revive_nothing() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2, dirty=0)])
    await log.record(1, 3, [Line(3, 3, dirty=0)])
    cache, devices = await resume(log)
    assert await content(cache, devices[1], 3) == page(1)
    assert await content(cache, devices[1], 4) == bytes(LINE)


async def test_a_line_dirty_in_part_is_merged_with_the_backing() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1, dirty=0b01000001)])
    cache, devices = await resume(log)
    store = devices[1].store
    assert store is not None
    await store.write(3 * LINE, [page(9)])
    merged = page(1)[:512] + page(9)[512 : 6 * 512] + page(1)[6 * 512 : 7 * 512] + page(9)[7 * 512 :]
    assert await content(cache, devices[1], 3) == merged


async def test_lines_from_before_a_disk_was_attached_are_dead() -> None:
    """The id was another disk's then, or the disk was written without the cache since (B22, B23)."""
    log = LogBuilder()
    log.attach((1, 10, 12))
    await log.record(1, 0, [Line(3, 1)])
    await log.record(1, 2, [Line(4, 2)])
    await log.record(1, 4, [Line(5, 3)])
    _, devices = await resume(log)
    assert [index != 0 for index in devices[1].table.index[:6]] == [False, False, False, False, False, True]
    assert devices[1].nr_dirty_caches == 1


async def test_lines_of_a_disk_nobody_knows_are_left_alone() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1, disk=7), Line(3, 2), Line(4, 3, disk=0), Line(5, 4, disk=254), Line(6, 5, disk=255)])
    cache, _ = await resume(log)
    assert cache.nr_dirty_caches == 1


@pytest.mark.parametrize("line", [10, 11, (1 << 32) - 1, 1 << 32, (1 << 47) - 1])
async def test_lines_beyond_the_end_of_the_disk_are_told_and_ignored(line: int, expect_log: ExpectLog) -> None:
    expect_log("1 lines of disk 1 lie beyond its end and are ignored")
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(line, 1), Line(9, 2)])
    cache, devices = await resume(log)
    assert devices[1].nr_dirty_caches == 1
    assert await content(cache, devices[1], 9) == page(2)


async def test_sectors_beyond_the_end_of_the_disk_are_not_taken_either(expect_log: ExpectLog) -> None:
    expect_log("lie beyond its end")
    log = LogBuilder()
    log.attach((1, 10, 0))
    log.say(disks=(attrs.evolve(log.superblock.disks[0], size=10 * LINE - 1024),))
    await log.record(1, 0, [Line(9, 1)])
    await log.record(1, 2, [Line(9, 2, dirty=0b00111111)])
    _, devices = await resume(log)
    assert devices[1].nr_dirty_caches == 1
    log = LogBuilder()
    log.attach((1, 10, 0))
    log.say(disks=(attrs.evolve(log.superblock.disks[0], size=10 * LINE - 1024),))
    await log.record(1, 0, [Line(9, 2, dirty=0b01000000)])
    _, devices = await resume(log)
    assert devices[1].nr_dirty_caches == 0


async def test_a_damaged_durable_line_degrades_the_cache_and_reads_as_an_error(expect_log: ExpectLog) -> None:
    expect_log("1 lines of /ssd.img are damaged")
    expect_log("line 4 of disk 1 is damaged")
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2)])
    await log.record(2, 0, [Line(5, 3)], durable=11)
    log.flip(10, 99)
    cache, devices = await resume(log)
    assert cache.state.startswith("degraded 1 damaged lines on /ssd.img")
    assert devices[1].nr_dirty_caches == 3
    with pytest.raises(Failed, match="line 4 of disk 1 is damaged"):
        await content(cache, devices[1], 4)
    assert await content(cache, devices[1], 3) == page(1)


async def test_a_line_that_was_bad_when_it_was_copied_stays_bad(expect_log: ExpectLog) -> None:
    """Its record may be the last one, and is no torn tail for it."""
    expect_log("1 lines of /ssd.img are damaged")
    expect_log("line 4 of disk 1 is damaged")
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2, known_bad=True), Line(5, 3)])
    cache, devices = await resume(log)
    assert cache.state.startswith("degraded 1 damaged lines")
    assert devices[1].nr_dirty_caches == 3
    with pytest.raises(Failed, match="line 4 of disk 1 is damaged"):
        await content(cache, devices[1], 4)
    assert await content(cache, devices[1], 5) == page(3)


async def test_a_damaged_line_that_was_overtaken_is_no_trouble(expect_log: ExpectLog) -> None:
    expect_log("1 lines of /ssd.img are damaged")
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1), Line(4, 2)])
    await log.record(2, 0, [Line(4, 3)], durable=11)
    log.flip(10, 99)
    cache, devices = await resume(log)
    assert cache.state == "running"
    assert await content(cache, devices[1], 4) == page(3)


async def test_a_hole_is_refused_and_nothing_is_written() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1)])
    await log.record(1, 2, [Line(4, 2)])
    log.say(head=12)
    log.flip(10, 40)
    before = log.store.medium.live.copy()
    with pytest.raises(Damaged, match="the log record at segment 1, block 2 was durable and is damaged"):
        await resume(log)
    assert log.store.medium.live == before


@pytest.mark.parametrize("segments", [1, 2, 3, 5])
async def test_damage_is_told_though_only_a_later_record_of_a_later_segment_knows(segments: int, autojump_clock: Clock) -> None:
    """Several segments become durable with one barrier; what was sealed after it lies in the middle of the last."""
    lab = await Lab.new(segments=10)
    async with lab.run() as rig:
        for line in range(7 * segments + 1):
            await rig.write(1, line * LINE, page(line))
        await rig.cache.barrier()
        await rig.write(1, 60 * LINE, page(60))
        await rig.cache.barrier()
        lab = lab.crash()
    lab.flip((1 << 20) + 50)
    with pytest.raises(Damaged):
        async with lab.run():
            pass


async def test_an_image_that_cannot_be_read_is_named() -> None:
    log = LogBuilder()
    log.attach((1, 10, 0))
    await log.record(1, 0, [Line(3, 1)])
    store = FaultStore(log.store, Fault(Operation.READ, times=None))
    with pytest.raises(Failed, match=r"/ssd.img cannot be read: .*; check the device"):
        await resume_cache(1, store, log.superblock, devices_of(log).values())


async def test_resuming_writes_nothing_and_begin_makes_it_so_in_both_copies() -> None:
    lab = await Lab.new()
    store = LogStore(MemoryStore(lab.image, "image", yields=False), Log())
    superblock = await read_superblock(store)
    devices = [CachedDevice(1, 64 * LINE, None)]
    devices[0].table = LineTable(64)
    cache = await resume_cache(1, store, superblock, devices)
    assert not {call.operation for call in store.log.calls} - {Operation.READ}
    store.log.clear()
    await cache.begin()
    assert [call.operation for call in store.log.calls] == [
        Operation.FLUSH,
        Operation.WRITE,
        Operation.FLUSH,
        Operation.WRITE,
        Operation.FLUSH,
    ]
    begun = await lab.superblock()
    assert begun.generation == superblock.generation + 1
    assert begun.sequence == superblock.sequence + 2
    assert not begun.clean


async def test_a_new_generation_begins_behind_the_last_segment_with_a_record(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        first = await lab.superblock()
    async with lab.run() as rig:
        second = await lab.superblock()
        assert second.generation == first.generation + 1
        assert second.generation_start == rig.cache.geometry.position(2, 0)
        assert second.head == rig.cache.geometry.position(1, 2)
        await rig.write(1, LINE, page(2))
        await rig.cache.barrier()
    assert [record.header.position for record in await lab.records()] == [8, 16]
    assert [record.header.generation for record in await lab.records()] == [first.generation, second.generation]


async def test_recovery_is_idempotent(autojump_clock: Clock) -> None:
    lab = await Lab.new(disks={1: 64 * LINE, 2: 64 * LINE})
    async with lab.run() as rig:
        for number in range(20):
            await rig.write(1 + number % 2, number % 7 * LINE, page(number))
            if number % 3 == 0:
                await rig.cache.barrier()
    states = []
    for _ in range(4):
        async with lab.run() as rig:
            rig.check_counts()
            states.append([await rig.read(disk, 0, 8 * LINE) for disk in (1, 2)])
    assert states[0] == states[1] == states[2] == states[3]


async def test_a_crash_at_each_write_of_a_recovery_changes_nothing(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed", at_least=5)
    lab = await Lab.new()
    async with lab.run() as rig:
        for number in range(12):
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier() if number % 2 else None
        expected = await rig.read(1, 0, 11 * LINE)
        crashed = lab.crash(lose_all)
    for operation in (Operation.WRITE, Operation.FLUSH):
        for nth in range(3 if operation is Operation.FLUSH else 2):
            again = crashed.crash()
            store = FaultStore(MemoryStore(again.image, "image"), Fault(operation, skip=nth))
            device = CachedDevice(1, 64 * LINE, None)
            device.table = LineTable(64)
            cache = await resume_cache(1, store, await again.superblock(), [device])
            with pytest.raises(Failed, match="image"):
                await cache.begin()
            for choose in (lose_all, *(keep_random(random.Random(seed)) for seed in range(8))):
                async with again.crash(choose).run() as rig:
                    assert await rig.read(1, 0, 11 * LINE) == expected


@pytest.mark.parametrize("seed", range(20))
async def test_what_a_recovery_cut_off_never_comes_back(seed: int, autojump_clock: Clock) -> None:
    """Crash, recover, write other data, crash again: an abandoned record is never revived (B03, B05)."""
    rng = random.Random(seed)
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        for number in range(2, 12):
            await rig.write(1, 0, page(number))
            await rig.write(1, number * LINE, page(number))
        rig.cache.seal()
        await trio.testing.wait_all_tasks_blocked()
        lab = lab.crash(keep_random(rng))
    for turn in range(3):
        async with lab.run() as rig:
            seen = await rig.read(1, 0, 12 * LINE)
            rig.check_counts()
        async with lab.run() as rig:
            assert await rig.read(1, 0, 12 * LINE) == seen
            await rig.write(1, 0, page(100 + turn))
            await rig.cache.barrier()
            seen = page(100 + turn) + seen[LINE:]
            lab = lab.crash(lose_all)
        async with lab.run() as rig:
            assert await rig.read(1, 0, 12 * LINE) == seen


async def test_recovery_reads_only_from_the_durable_tail() -> None:
    log = LogBuilder(segments=4000)
    log.attach((1, 10, 0))
    log.say(tail=3000, head=3009 * 8 + 2)
    for segment_id in range(3000, 3010):
        await log.record(segment_id, 0, [Line(3, segment_id)], tail=3000)
    calls = Log()
    cache = await resume_cache(1, LogStore(log.store, calls), log.superblock, devices_of(log).values())
    assert cache.nr_dirty_caches == 1
    assert calls.bytes_of(Operation.READ) < 80 * 8 * LINE
    assert min(call.offset for call in calls.of(Operation.READ)) == log.geometry.offset_of(3000 * 8)


async def test_progress_is_said_now_and_then() -> None:
    log = LogBuilder(segments=3 * PROGRESS_SEGMENTS, blocks=2)
    log.attach((1, 10, 0))
    for segment_id in range(1, 2 * PROGRESS_SEGMENTS + 2):
        await log.record(segment_id, 0, [Line(3, segment_id)])
    said: list[str] = []
    await resume_cache(1, log.store, log.superblock, devices_of(log).values(), say=said.append)
    assert 1 <= len(said) <= 3
    assert all(sentence.startswith("cache 1: recovering, segment ") for sentence in said)


# One superblock copy is damaged: the other may be older than the log


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("copy", [0, 1])
async def test_either_superblock_copy_is_enough(seed: int, copy: int, autojump_clock: Clock, expect_log: ExpectLog) -> None:
    """Tails go to one copy at a time; with the newer one damaged nothing that was durable is lost or comes back old."""
    expect_log("the superblock that is left is older than the log", at_least=0)
    rng = random.Random(seed)
    bench = Bench()
    await bench.image(segments=rng.randrange(3, 7))
    async with bench.mount(devices=(DeviceSpec("/one", size=DISK),)) as manager:
        disk = manager.devices[1]
        await manager.caches[1].set_tunable("update_interval", 0)
        content = bytearray(DISK)
        for number in range(rng.randrange(10, 60)):
            offset, data = rng.randrange(64) * LINE, page(number)
            await write(disk, offset, data)
            content[offset : offset + LINE] = data
            if rng.random() < 0.3:
                await disk.flush()
            elif rng.random() < 0.15:
                await manager.caches[1].drop_caches()
        await disk.flush()
        after = Bench(bench.storage.crash(lose_all))
    image = after.storage.media["/ssd.img"]
    for picture in (image.live, image.durable):
        picture.write(SUPERBLOCK_COPIES[copy] + 100, b"\xa5\xa5")
    async with after.mount() as manager:
        assert await read(manager.devices[1], 0, DISK) == bytes(content)
        await manager.caches[1].drop_caches()
    assert after.storage.media["/one"].durable.read(0, DISK) == bytes(content)


async def test_a_tail_that_was_given_up_since_is_found_in_the_log(expect_log: ExpectLog) -> None:
    """The copy that is left says segment 1; its slot holds segment 5 by now, whose record says that the tail is 3."""
    expect_log("the superblock that is left is older than the log; going by the log")
    log = LogBuilder(segments=4)
    log.attach((1, 20, 0))
    for segment_id in range(1, 7):
        await log.record(segment_id, 0, 2, tail=max(1, segment_id - 2), durable=segment_id * 8)
    log.say(tail=1, head=3 * 8, clean=True)
    caught_up = await catch_up(log.store, log.superblock)
    assert (caught_up.tail, caught_up.head, caught_up.clean) == (4, 48, False)
    log.superblock = caught_up
    assert await log.accepted() == [32, 40, 48]


async def test_a_copy_whose_first_segment_is_still_there_is_believed() -> None:
    log = LogBuilder(segments=8)
    await log.record(1, 0, 2)
    await log.record(2, 0, 2, tail=2, durable=11)
    log.say(tail=1, head=8, clean=True)
    caught_up = await catch_up(log.store, log.superblock)
    assert (caught_up.tail, caught_up.head, caught_up.clean) == (1, 8, False)


async def test_records_of_other_caches_generations_and_places_say_nothing_of_the_tail() -> None:
    log = LogBuilder(segments=8)
    log.say(tail=3, head=24, generation=2, generation_start=16, clean=True)
    await log.record(4, 0, 1, generation=1, tail=4, durable=1000)
    await log.record(5, 0, 1, generation=2, tail=5, durable=1000, uuid=UUID(int=3))
    await log.record(6, 0, 1, generation=2, tail=6, durable=1000, position=7 * 8)
    await log.record(7, 2, 1, generation=2, tail=7, durable=1000)
    caught_up = await catch_up(log.store, log.superblock)
    assert (caught_up.tail, caught_up.head, caught_up.clean) == (3, 24, True)


writes = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 5), st.integers(1, 255)), min_size=1, max_size=25)


@given(writes, st.integers(1, 7))
def test_replay_equals_a_plain_map(lines: list[tuple[int, int, int]], per_record: int) -> None:
    """The tables after recovery are those of a dictionary that is told every row in order."""
    trio.run(_compare, lines, per_record)


async def _compare(lines: list[tuple[int, int, int]], per_record: int) -> None:
    log = LogBuilder(segments=30)
    log.attach((1, 10, 0), (2, 10, 0))
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for segment_id, first in enumerate(range(0, len(lines), per_record), 1):
        rows = []
        for number, (disk, line, dirty) in enumerate(lines[first : first + per_record], first):
            rows.append(Line(line, number, disk, dirty))
            newest[disk, line] = number, dirty
        await log.record(segment_id, 0, rows)
    cache, devices = await resume(log)
    for disk, device in devices.items():
        expected = {line: found for (owner, line), found in newest.items() if owner == disk}
        assert {line for line in range(10) if device.table.index[line]} == expected.keys()
        assert device.nr_dirty_caches == len(expected) == cache.ring.recount(disk)
        for line, (number, dirty) in expected.items():
            found = await content(cache, device, line)
            for sector in range(8):
                part = slice(sector * 512, (sector + 1) * 512)
                assert found[part] == (page(number)[part] if dirty >> sector & 1 else bytes(512))
