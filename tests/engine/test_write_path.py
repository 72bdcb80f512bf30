# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing: any offset, any length, over whatever is there; and what the sixteen counters say of it."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER, WRITE
from lcfs.testing import Effect, Fault, Operation
from tests.engine.rig import Lab, Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
nowait = pytest.mark.parametrize("nowait", [True, False])


async def test_a_whole_line_is_taken_without_waiting(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        device = rig.devices[1]
        assert rig.cache.write_nowait(device, 3 * LINE, page(1)) == LINE
        assert rig.cache.write_nowait(device, 4 * LINE, page(2, 5)) == 5 * LINE
        assert device.nr_dirty_caches == 6
        assert bytes(rig.cache.read_nowait(device, 3 * LINE, 6 * LINE) or b"") == page(1) + page(2, 5)
        assert rig.log.calls == []


@pytest.mark.parametrize(("offset", "length"), [(1, LINE), (512, 512), (0, 100), (0, LINE + 512), (LINE, 0)])
async def test_what_is_no_whole_line_is_left_to_write(offset: int, length: int, autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        assert rig.cache.write_nowait(rig.devices[1], offset, bytes(length)) == -1
        assert rig.devices[1].nr_dirty_caches == 0
        assert rig.cache.stats.rows() == (0,) * 16


async def test_a_request_longer_than_a_segment(autojump_clock: Clock) -> None:
    async with Rig.running(segments=10) as rig:
        await rig.write(1, LINE, page(1, 50))
        assert await rig.read(1, LINE, 50 * LINE) == page(1, 50)
        assert rig.cache.nr_dirty_caches == 50
        rig.check_counts()


async def test_a_request_longer_than_the_cache(autojump_clock: Clock) -> None:
    async with Rig.running(segments=3, disks={1: 200 * LINE}) as rig:
        await rig.write(1, 0, page(1, 200))
        assert await rig.read(1, 0, 200 * LINE) == page(1, 200)
        rig.check_counts()


@nowait
async def test_a_partial_overwrite_takes_the_old_dirty_sectors_along(nowait: bool, autojump_clock: Clock) -> None:
    """B08, B33: it neither waits for the backing nor leaves a line in two places."""
    async with Rig.running(nowait=nowait) as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        rig.cache.close_segment()
        hang = rig.backings[1].add(Fault(Operation.WRITE, Effect.HANG, times=None))
        rig.backings[1].add(Fault(Operation.READ, Effect.HANG, times=None))
        await rig.write(1, 1024, page(2)[:512])
        expected = page(1)[:1024] + page(2)[:512] + page(1)[1536:]
        assert await rig.read(1, 0, LINE) == expected
        assert rig.cache.nr_dirty_caches == 1
        rig.check_counts()
        hang.release()
        await rig.cache.barrier()
        (_, record) = await rig.lab.records()
        assert record.header.entries["dirty"].tolist() == [0xFF]


async def test_a_partial_line_over_a_partial_line_unites_their_sectors(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 512, page(1)[:1024])
        await rig.cache.barrier()
        await rig.write(1, 1024, page(2)[:1024])
        await rig.cache.barrier()
        rows = [record.header.entries["dirty"].tolist() for record in await rig.lab.records()]
        assert rows == [[0b00000110], [0b00001110]]
        assert await rig.read(1, 0, LINE) == bytes(512) + page(1)[:512] + page(2)[:1024] + bytes(LINE - 2048)
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, LINE) == bytes(512) + page(1)[:512] + page(2)[:1024] + bytes(LINE - 2048)


async def test_sectors_that_were_not_written_are_zero_on_the_image(autojump_clock: Clock) -> None:
    """B37: nothing of another disk, or of what the buffer held before, is in them."""
    async with Rig.running(nr_buffers=1) as rig:
        for line in range(14):
            await rig.write(1, line * LINE, page(line))
        await rig.cache.barrier()
        await rig.write(1, 20 * LINE + 512, page(99)[:512])
        await rig.cache.barrier()
        stored = rig.lab.image.live.read(rig.index(1, 20) * LINE, LINE)
        assert stored == bytes(512) + page(99)[:512] + bytes(LINE - 1024)


async def test_a_clean_line_gives_nothing_to_take_along(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.drop_caches()
        await rig.write(1, 512, page(2)[:512])
        assert await rig.read(1, 0, LINE) == page(1)[:512] + page(2)[:512] + page(1)[1024:]
        await rig.cache.barrier()
        assert (await rig.lab.records())[-1].header.entries["dirty"].tolist() == [0b00000010]
        rig.check_counts()


@nowait
@pytest.mark.parametrize(("offset", "length"), [(1, 1), (100, 300), (511, 2), (700, 3000), (4000, 200), (5, 3 * LINE)])
async def test_any_offset_and_length(offset: int, length: int, nowait: bool, autojump_clock: Clock) -> None:
    async with Rig.running(nowait=nowait) as rig:
        await rig.backings[1].fault.next.write(0, [page(9, 5)])
        await rig.write(1, LINE, page(1))
        await rig.cache.barrier()
        rig.cache.close_segment()
        before = page(9, 5)[:LINE] + page(1) + page(9, 5)[2 * LINE :]
        data = bytes([0xEE]) * length
        await rig.write(1, offset, data)
        assert await rig.read(1, 0, 5 * LINE) == before[:offset] + data + before[offset + length :]
        rig.check_counts()


async def test_bytes_written_into_one_sector_side_by_side_all_stay(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        rig.backings[1].delay.reads = 0.01

        async def put(at: int) -> None:
            await rig.write(1, at, bytes([at % 251 + 1]))

        async with trio.open_nursery() as nursery:
            for at in range(0, 1024, 7):
                nursery.start_soon(put, at)
        content = await rig.read(1, 0, 1024)
        assert all(content[at] == at % 251 + 1 for at in range(0, 1024, 7))


async def test_a_whole_line_that_comes_while_a_few_bytes_wait_is_not_undone(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig, trio.open_nursery() as nursery:
        hang = rig.backings[1].add(Fault(Operation.READ, Effect.HANG))
        nursery.start_soon(rig.write, 1, 100, b"abc")
        await trio.testing.wait_all_tasks_blocked()
        await rig.write(1, 0, page(7))
        hang.release()
        await trio.testing.wait_all_tasks_blocked()
        assert await rig.read(1, 0, LINE) == page(7)[:100] + b"abc" + page(7)[103:]


async def test_a_damaged_old_sector_refuses_a_partial_write_and_a_whole_one_mends(
    autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("line 0 of disk 1 is damaged on image")
    async with Rig.running() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
        rig.cache.close_segment()
        rig.lab.flip(rig.index(1, 0) * LINE)
        with pytest.raises(Failed, match="line 0 of disk 1 is damaged on image; overwrite it as a whole to mend it"):
            await rig.write(1, 512, page(2)[:512])
        await rig.write(1, 0, page(3))
        assert await rig.read(1, 0, LINE) == page(3)
        assert rig.cache.state == "running"
        rig.check_counts()


async def test_an_unaligned_write_whose_old_bytes_cannot_be_read_changes_nothing(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        rig.backings[1].add(Fault(Operation.READ, times=1))
        with pytest.raises(Failed, match="disk1 cannot be read"):
            await rig.write(1, 10, b"x")
        assert rig.cache.nr_dirty_caches == 0
        await rig.write(1, 10, b"x")
        assert await rig.read(1, 0, 20) == bytes(10) + b"x" + bytes(9)


# Counters


async def test_writes_are_counted_by_piece_and_by_what_they_hit(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:

        async def moved(offset: int, length: int) -> dict[int, int]:
            rig.cache.stats.clear()
            await rig.write(1, offset, bytes(length))
            return {key: count for key, count in enumerate(rig.cache.stats.rows()) if count}

        assert await moved(0, LINE) == {WRITE | FULLSIZE: 1}
        assert await moved(0, LINE) == {WRITE | HIT | ON_BUFFER | FULLSIZE: 1}
        assert await moved(512, 512) == {WRITE | HIT | ON_BUFFER: 1}
        assert await moved(LINE, 512) == {WRITE: 1}
        assert await moved(LINE, 3 * LINE) == {WRITE | HIT | ON_BUFFER | FULLSIZE: 1, WRITE | FULLSIZE: 2}
        await rig.cache.flush_current_buffer()
        assert await moved(0, LINE) == {WRITE | HIT | FULLSIZE: 1}
        assert await moved(LINE + 512, 512) == {WRITE | HIT: 1}
        assert await moved(2 * LINE + 2048, 2 * LINE) == {WRITE | HIT: 1, WRITE | HIT | FULLSIZE: 1, WRITE: 1}
        await rig.cache.drop_caches()
        assert await moved(0, LINE) == {WRITE | HIT | FULLSIZE: 1}
        assert await moved(5 * LINE, 20 * LINE) == {WRITE | FULLSIZE: 20}
        assert await moved(0, 0) == {}


async def test_an_unaligned_write_is_one_write_and_no_read(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await rig.write(1, 100, b"x")
        assert {key: count for key, count in enumerate(rig.cache.stats.rows()) if count} == {WRITE: 1}


# Against a plain array of bytes

requests = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 30 * LINE), st.integers(1, 9 * LINE)),
        st.tuples(st.just("lines"), st.integers(0, 31), st.integers(1, 10)),
        st.tuples(st.just("sectors"), st.integers(0, 255), st.integers(1, 20)),
        st.tuples(st.just("read"), st.integers(0, 31 * LINE), st.integers(1, 9 * LINE)),
        st.tuples(st.sampled_from(["barrier", "drop", "close", "crash"]), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(requests, st.booleans(), st.sampled_from([1, 2, 5]))
def test_what_is_read_is_what_was_written(steps: list[tuple[str, int, int]], nowait: bool, segments: int) -> None:
    trio.run(_play, steps, nowait, segments, clock=trio.testing.MockClock(autojump_threshold=0))


async def _play(steps: list[tuple[str, int, int]], nowait: bool, segments: int) -> None:
    size = 31 * LINE + 1536
    rng = random.Random(len(steps))
    expected = bytearray(size)
    lab = await Lab.new(segments=segments, disks={1: size})
    while True:
        async with lab.run(nowait=nowait) as rig:
            assert await rig.read(1, 0, size) == bytes(expected)
            while steps:
                (kind, offset, length), *steps = steps
                if kind == "lines":
                    offset, length = offset * LINE, length * LINE
                elif kind == "sectors":
                    offset, length = offset * 512, length * 512
                offset = min(offset, size - 1)
                length = min(length, size - offset)
                if kind == "read":
                    assert await rig.read(1, offset, length) == bytes(expected[offset : offset + length])
                elif kind == "barrier":
                    await rig.cache.barrier()
                elif kind == "close":
                    rig.cache.close_segment()
                elif kind == "drop":
                    await rig.cache.drop_caches()
                    assert rig.cache.nr_dirty_caches == 0
                    assert rig.backing(1, 0, size) == bytes(expected)
                elif kind == "crash":
                    await rig.cache.barrier()
                    break
                else:
                    data = rng.randbytes(length)
                    await rig.write(1, offset, data)
                    expected[offset : offset + length] = data
                rig.check_counts()
            else:
                assert await rig.read(1, 0, size) == bytes(expected)
                return
            lab = lab.crash()
