# SPDX-License-Identifier: GPL-2.0-or-later
"""The writing end of the log: records, segments, buffers, and how room runs out."""

from __future__ import annotations

import trio
import trio.testing
from crc32c import crc32c

from lcfs.engine.geometry import LINE
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.rig import Lab, Rig, page

Clock = trio.testing.MockClock


async def test_what_a_record_says_of_itself(autojump_clock: Clock) -> None:
    lab = await Lab.new(disks={1: 64 * LINE, 9: 64 * LINE})
    async with lab.run() as rig:
        await rig.write(1, 5 * LINE, page(1))
        await rig.write(9, 63 * LINE + 512, page(2)[:1024])
        await rig.cache.barrier()
        await rig.write(9, 0, page(3))
        await rig.cache.barrier()
        first, second = (record.header for record in await lab.records())
        assert first.generation == (await lab.superblock()).generation
        assert (first.previous, first.previous_crc) == (0, 0)
        assert first.durable == rig.cache.geometry.position(1, 0)
        assert first.tail == 1
        assert [tuple(row) for row in first.entries[["line", "line_high", "device_id", "dirty"]]] == [
            (5, 0, 1, 0xFF),
            (63, 0, 9, 0b00000110),
        ]
        assert first.entries["crc"].tolist() == [
            crc32c(page(1)),
            crc32c(bytes(512) + page(2)[:1024] + bytes(LINE - 1536)),
        ]
        assert (second.position, second.previous, second.previous_crc) == (first.end, first.position, first.crc)
        assert second.durable == first.end


async def test_the_chain_goes_on_across_a_recovery(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    for turn in range(3):
        async with lab.run() as rig:
            await rig.write(1, turn * LINE, page(turn))
            await rig.cache.barrier()
    headers = [record.header for record in await lab.records()]
    assert [header.position for header in headers] == [8, 16, 24]
    assert [header.previous for header in headers] == [0, 8, 16]
    assert headers[2].previous_crc == headers[1].crc


async def test_a_full_segment_is_one_record(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        for line in range(15):
            await rig.write(1, line * LINE, page(line))
        await trio.sleep(1)
        assert rig.written() == [(1 << 20, 8 * LINE), ((1 << 20) + 8 * LINE, 8 * LINE)]
        assert [record.header.count for record in await rig.lab.records()] == [7, 7]
        assert rig.cache.current_segment_id == 3
        assert rig.cache.last_flushed_segment_id == 2


async def test_ids_as_2013_counts_them(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        cache = rig.cache
        assert (cache.current_segment_id, cache.last_flushed_segment_id, cache.cursor) == (0, 0, 0)
        await rig.write(1, 0, page(1))
        assert (cache.current_segment_id, cache.last_flushed_segment_id, cache.cursor) == (1, 0, 0)
        await cache.flush_current_buffer()
        assert cache.last_flushed_segment_id == 1
        await rig.write(1, LINE, page(2))
        await cache.flush_current_buffer()
        assert (cache.current_segment_id, cache.last_flushed_segment_id) == (1, 1)
        await cache.drop_caches()
        assert cache.last_migrated_segment_id == cache.last_flushed_segment_id == 1
        await rig.write(1, 0, page(3))
        assert cache.current_segment_id == 2
        assert cache.cursor == 7


async def test_the_cursor_counts_lines_around_the_ring(autojump_clock: Clock) -> None:
    async with Rig.running(segments=2) as rig:
        seen = []
        for line in range(7):
            await rig.write(1, line * LINE, page(line))
            seen.append(rig.cache.cursor)
        assert seen == list(range(7))
        for line in range(7, 14):
            await rig.write(1, line * LINE, page(line))
        assert rig.cache.cursor == 13
        await rig.cache.drop_caches()
        await rig.write(1, 0, page(0))
        assert rig.cache.cursor == 0


async def test_small_records_use_the_segment_up_to_its_last_pair_of_blocks(autojump_clock: Clock) -> None:
    async with Rig.running(segments=5) as rig:
        for number in range(16):
            await rig.write(1, 0, page(number))
            await rig.cache.barrier()
        assert rig.cache.current_segment_id == 4
        assert [length for _, length in rig.written()] == [2 * LINE] * 16
        assert len(await rig.lab.records()) == 16


async def test_a_record_leaves_no_room_for_half_a_record(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1, 6))
        await rig.cache.barrier()
        await rig.write(1, 0, page(2))
        await rig.cache.barrier()
        assert [record.header.position for record in await rig.lab.records()] == [8, 16]


async def test_a_write_waits_for_a_free_buffer_and_no_longer(autojump_clock: Clock) -> None:
    async with Rig.running(nr_buffers=2) as rig:
        hang = rig.image.add(Fault(Operation.WRITE, Effect.HANG, times=None))
        for line in range(14):
            await rig.write(1, line * LINE, page(line))
        done = trio.Event()

        async def one_more() -> None:
            await rig.write(1, 14 * LINE, page(14))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one_more)
            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            # readers and what needs no new segment are not held up
            assert await rig.read(1, 0, 14 * LINE) == b"".join(page(line) for line in range(14))
            hang.release()
        assert done.is_set()
        assert await rig.read(1, 14 * LINE, LINE) == page(14)


async def test_a_full_ring_writes_back_what_it_needs_and_goes_on(autojump_clock: Clock) -> None:
    async with Rig.running(segments=3) as rig:
        for number in range(100):
            await rig.write(1, number % 50 * LINE, page(number))
        rig.check_counts()
        assert await rig.read(1, 0, 50 * LINE) == b"".join(page(number) for number in range(50, 100))
        assert rig.cache.last_migrated_segment_id > 5


async def test_one_segment_is_enough(autojump_clock: Clock) -> None:
    async with Rig.running(segments=1) as rig:
        for number in range(40):
            await rig.write(1, number * LINE, page(number))
        await rig.cache.barrier()
        assert await rig.read(1, 0, 40 * LINE) == b"".join(page(number) for number in range(40))


async def test_a_slot_is_overwritten_only_after_the_tail_that_frees_it_is_durable(autojump_clock: Clock) -> None:
    """At every write to the image, a crash that loses all unsynced writes finds what was durable before (B02, B04)."""
    lab = await Lab.new(segments=3)
    async with lab.run() as rig:
        for number in range(60):
            await rig.write(1, number % 10 * LINE, page(number))
            await rig.cache.barrier()
            superblock = await lab.crash(lose_all).superblock()
            in_use = rig.cache.current_segment_id - superblock.tail + 1
            assert in_use <= 3
            async with lab.crash(lose_all).run() as after:
                assert await after.read(1, number % 10 * LINE, LINE) == page(number)


async def test_buffers_come_back_after_a_clean_stop_and_a_resume(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run(clean=True) as rig:
        for number in range(20):
            await rig.write(1, number * LINE, page(number))
    assert (await lab.superblock()).clean
    records = await lab.records(check_all=True)
    assert sum(record.header.count for record in records) == 20
    async with lab.run() as rig:
        assert await rig.read(1, 0, 20 * LINE) == b"".join(page(number) for number in range(20))
        assert not (await lab.superblock()).clean


async def test_ten_thousand_barriers_fit_as_far_as_arithmetic_says(autojump_clock: Clock) -> None:
    """256 blocks: 128 records of 8 KiB per segment, so 79 segments, and one that is kept back."""
    async with Rig.running(segments=80, blocks=256) as rig:
        for number in range(10000):
            await rig.write(1, 0, page(number))
            await rig.cache.barrier()
        assert rig.cache.current_segment_id == 79
        assert sum(length for _, length in rig.written()) == 10000 * 8192
        assert rig.flushes() == 10000
        assert rig.written("disk1") == []
