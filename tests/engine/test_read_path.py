# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading: from where each line is served, and what is never served."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from lcfs.engine.errors import Failed, Missing
from lcfs.engine.geometry import LINE
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER
from lcfs.testing import Effect, Fault, Operation
from tests.engine.rig import Lab, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
nowait = pytest.mark.parametrize("nowait", [True, False])


def reads(rig: Rig, store: str) -> list[tuple[int, int]]:
    return [(call.offset, call.length) for call in rig.log.of(Operation.READ, store)]


async def put_backing(rig: Rig, data: bytes, offset: int = 0) -> None:
    await rig.backings[1].fault.next.write(offset, [data])


def spoil_image(rig: Rig, index: int, byte: int = 100) -> None:
    rig.lab.flip(index * LINE + byte)


@nowait
async def test_what_is_not_cached_comes_from_the_backing(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await put_backing(rig, page(5, 64))
        assert await rig.read(1, 0, 64 * LINE) == page(5, 64)
        assert reads(rig, "disk1") == [(0, 64 * LINE)]
        assert reads(rig, "image") == []
        assert await rig.read(1, 3 * LINE + 100, 5000) == page(5, 64)[3 * LINE + 100 :][:5000]


@nowait
async def test_what_is_in_ram_is_served_from_ram(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, LINE, page(1, 3))
        assert await rig.read(1, LINE, 3 * LINE) == page(1, 3)
        assert await rig.read(1, LINE + 7, 2 * LINE) == page(1, 3)[7:][: 2 * LINE]
        # sealed, and not yet on the image
        hang = rig.image.add(Fault(Operation.WRITE, Effect.HANG))
        rig.cache.seal()
        await trio.testing.wait_all_tasks_blocked()
        assert await rig.read(1, LINE, 3 * LINE) == page(1, 3)
        assert reads(rig, "image") == reads(rig, "disk1") == []
        hang.release()


@nowait
async def test_what_is_on_the_image_is_served_from_the_image(nowait: bool, autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run(clean=True) as rig:
        await rig.write(1, 0, page(1, 12))
    async with lab.run(nowait=nowait) as rig:
        assert await rig.read(1, 0, 12 * LINE) == page(1, 12)
        assert reads(rig, "disk1") == []
        # a run of neighbours is one read, except where a header lies between
        assert [length for _, length in reads(rig, "image")] == [7 * LINE, 5 * LINE]


@nowait
async def test_a_clean_line_that_is_still_on_the_image_is_served_from_there(nowait: bool, autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run(nowait=nowait) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, LINE) == page(1)
        rig.log.clear()
        assert await rig.read(1, 0, LINE) == page(1)
        assert reads(rig, "disk1") == []


@nowait
async def test_a_line_dirty_in_part_is_merged_in_memory_and_nothing_is_written(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await put_backing(rig, page(9, 3))
        await rig.write(1, LINE + 1024, page(1)[:512])
        await rig.write(1, LINE + 3584, page(2)[:512])
        expected = page(9, 3)
        for offset, data in ((LINE + 1024, page(1)[:512]), (LINE + 3584, page(2)[:512])):
            expected = expected[:offset] + data + expected[offset + len(data) :]
        for _ in range(2):
            assert await rig.read(1, 0, 3 * LINE) == expected
            assert await rig.read(1, LINE + 1000, 600) == expected[LINE + 1000 :][:600]
            await rig.cache.barrier()
        assert rig.backing(1, 0, 3 * LINE) == page(9, 3)
        assert rig.written("disk1") == []
        assert rig.cache.nr_dirty_caches == 1


@nowait
async def test_one_request_over_all_kinds_of_lines(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait, blocks=16) as rig:
        await put_backing(rig, page(50, 64))
        expected = bytearray(page(50, 64))

        async def put(offset: int, data: bytes) -> None:
            await rig.write(1, offset, data)
            expected[offset : offset + len(data)] = data

        await put(0, page(1, 3))
        await rig.cache.drop_caches()
        await put(5 * LINE, page(2, 4))
        await put(20 * LINE + 512, page(3)[:1024])
        await rig.cache.barrier()
        await put(6 * LINE, page(4))
        await put(30 * LINE, page(5, 2))
        await put(2 * LINE + 2048, page(6)[:512])
        for offset, length in ((0, 64 * LINE), (100, 40 * LINE), (2 * LINE, 5 * LINE), (20 * LINE + 1, 511)):
            assert await rig.read(1, offset, length) == bytes(expected[offset : offset + length])


async def test_the_last_line_of_a_disk_may_be_part_of_one(autojump_clock: Clock) -> None:
    async with Rig.running(disks={1: 5 * LINE + 1024}) as rig:
        await put_backing(rig, page(1, 6)[: 5 * LINE + 1024])
        assert await rig.read(1, 4 * LINE, LINE + 1024) == page(1, 6)[4 * LINE : 5 * LINE + 1024]
        await rig.write(1, 5 * LINE + 512, page(2)[:512])
        assert await rig.read(1, 5 * LINE, 1024) == page(1, 6)[5 * LINE : 5 * LINE + 512] + page(2)[:512]
        await rig.cache.drop_caches()
        assert rig.backing(1, 5 * LINE + 512, 512) == page(2)[:512]


# What never comes


@nowait
async def test_a_wrong_bit_in_a_dirty_line_is_an_error_and_never_data(
    nowait: bool, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expectation = expect_log("line 1 of disk 1 is damaged on image")
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.cache.barrier()
        rig.cache.close_segment()
        spoil_image(rig, rig.index(1, 1))
        for offset, length in ((LINE, LINE), (0, 3 * LINE), (LINE + 512, 512)):
            with pytest.raises(Failed, match="line 1 of disk 1 is damaged on image; its newest data is lost") as caught:
                await rig.read(1, offset, length)
            assert caught.value.errno == errno.EIO
        assert await rig.read(1, 0, LINE) == page(1, 3)[:LINE]
        assert await rig.read(1, 2 * LINE, LINE) == page(1, 3)[2 * LINE :]
        assert rig.cache.crc_errors == 3 == len(expectation.records)


@nowait
async def test_a_wrong_bit_in_a_clean_line_sends_the_reader_to_the_backing(
    nowait: bool, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expectation = expect_log("line 1 of disk 1 is damaged on image; it is clean, the backing serves it")
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.cache.drop_caches()
        spoil_image(rig, rig.index(1, 1))
        assert await rig.read(1, 0, 3 * LINE) == page(1, 3)
        assert await rig.read(1, LINE, LINE) == page(1, 3)[LINE : 2 * LINE]
        assert rig.cache.crc_errors == 1 == len(expectation.records)
        rig.check_counts()


@nowait
async def test_a_bit_that_was_wrong_once_is_read_again(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 0, page(1, 3))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.image.add(Fault(Operation.READ, Effect.CORRUPT, times=2))
        assert await rig.read(1, 0, 3 * LINE) == page(1, 3)
        assert rig.cache.crc_errors == 0


@nowait
async def test_a_wrong_bit_in_a_line_dirty_in_part(nowait: bool, autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("line 2 of disk 1 is damaged")
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 2 * LINE, page(1)[:512])
        await rig.cache.barrier()
        rig.cache.close_segment()
        spoil_image(rig, rig.index(1, 2), byte=3)
        with pytest.raises(Failed, match="line 2 of disk 1 is damaged"):
            await rig.read(1, 2 * LINE, LINE)


async def test_an_image_that_cannot_be_read_costs_only_its_dirty_lines(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("image cannot be read at block")
    expect_log("line 0 of disk 1 cannot be read from image; it is clean")
    expect_log("line 5 of disk 1 cannot be read from image$")
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.drop_caches()
        await rig.write(1, 5 * LINE, page(2))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.image.add(Fault(Operation.READ, times=None))
        assert await rig.read(1, 0, LINE) == page(1)
        with pytest.raises(Failed, match="line 5 of disk 1 cannot be read from image; look at the device under it"):
            await rig.read(1, 5 * LINE, LINE)
        assert (rig.cache.crc_errors, rig.cache.read_errors) == (0, 5), "nobody has seen a wrong bit"


async def test_clean_lines_do_not_wait_for_an_image_that_cannot_be_read(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("image cannot be read at block")
    expect_log("of disk 1 cannot be read from image; it is clean")
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 0, page(1, 40))
        await rig.cache.drop_caches()
        rig.image.add(Fault(Operation.READ, times=None))
        began = trio.current_time()
        assert await rig.read(1, 0, 40 * LINE) == page(1, 40)
        assert trio.current_time() == began


@nowait
async def test_a_backing_that_cannot_be_read_costs_what_only_it_has(nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 0, page(1))
        await rig.write(1, LINE, page(2)[:512])
        rig.backings[1].add(Fault(Operation.READ, error=errno.ETIMEDOUT, times=None))
        assert await rig.read(1, 0, LINE) == page(1)
        for line in (1, 2):
            with pytest.raises(Failed, match="disk1 cannot be read") as caught:
                await rig.read(1, line * LINE, LINE)
            assert caught.value.errno == errno.ETIMEDOUT


async def test_a_missing_backing_leaves_what_is_cached_as_a_whole(autojump_clock: Clock) -> None:
    async with Rig.running(missing=[1]) as rig:
        await rig.write(1, 0, page(1, 9))
        await rig.write(1, 9 * LINE, page(2)[:512])
        assert await rig.read(1, 0, 9 * LINE) == page(1, 9)
        for line in (9, 10):
            with pytest.raises(Missing, match="the backing of disk 1 is missing") as caught:
                await rig.read(1, line * LINE, LINE)
            assert caught.value.errno == errno.ENODEV


async def test_a_line_that_moves_while_it_is_read_is_looked_up_again(autojump_clock: Clock) -> None:
    """The read of the image is under way while its slot is given to other lines."""
    async with Rig.running(segments=2, nowait=False) as rig:
        await rig.write(1, 0, page(1, 7))
        await rig.cache.drop_caches()
        hang = rig.image.add(Fault(Operation.READ, Effect.HANG))
        found: list[bytes] = []

        async def read() -> None:
            found.append(await rig.read(1, 0, 7 * LINE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(40):
                await rig.write(1, (8 + number % 50) * LINE, page(100 + number))
            await rig.cache.barrier()
            hang.release()
        assert found == [page(1, 7)]


async def test_an_overwrite_during_a_read_is_seen_or_not_and_never_half_of_a_line(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        rig.cache.close_segment()
        hang = rig.image.add(Fault(Operation.READ, Effect.HANG))
        found: list[bytes] = []

        async def read() -> None:
            found.append(await rig.read(1, 0, LINE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await rig.write(1, 0, page(2))
            assert await rig.read(1, 0, LINE) == page(2)
            hang.release()
        assert found[0] in (page(1), page(2))


# Counters


async def test_reads_are_counted_by_piece_and_by_where_the_line_is(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:

        async def moved(offset: int, length: int) -> dict[int, int]:
            rig.cache.stats.clear()
            await rig.read(1, offset, length)
            return {key: count for key, count in enumerate(rig.cache.stats.rows()) if count}

        assert await moved(0, LINE) == {FULLSIZE: 1}
        assert await moved(0, 512) == {0: 1}
        assert await moved(512, 2 * LINE) == {FULLSIZE: 1, 0: 2}
        assert await moved(0, 9 * LINE) == {FULLSIZE: 9}
        await rig.write(1, 0, page(1, 2))
        assert await moved(0, LINE) == {HIT | ON_BUFFER | FULLSIZE: 1}
        assert await moved(100, 100) == {HIT | ON_BUFFER: 1}
        assert await moved(0, 4 * LINE) == {HIT | ON_BUFFER | FULLSIZE: 2, FULLSIZE: 2}
        await rig.cache.flush_current_buffer()
        assert await moved(0, LINE) == {HIT | FULLSIZE: 1}
        assert await moved(0, 512) == {HIT: 1}
        await rig.cache.drop_caches()
        assert await moved(0, LINE) == {HIT | FULLSIZE: 1}
        await rig.write(1, 10 * LINE + 512, page(1)[:512])
        assert await moved(10 * LINE, LINE) == {HIT | ON_BUFFER | FULLSIZE: 1}


async def test_a_read_that_had_to_wait_is_counted_once(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.cache.stats.clear()
        await rig.read(1, 0, LINE)
        await rig.read(1, 5 * LINE, 2 * LINE)
        assert sum(rig.cache.stats.rows()) == 3
