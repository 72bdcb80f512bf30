# SPDX-License-Identifier: GPL-2.0-or-later
"""The successor table of the log reader, label by label, and then all of it against a plain model."""

from __future__ import annotations

from uuid import UUID

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.disk_format import RecordHeader
from lcfs.engine.errors import Damaged
from lcfs.engine.geometry import LINE
from lcfs.engine.log_reader import LOOKAHEAD_SEGMENTS, LogReader, Verdict
from lcfs.testing import Fault, FaultStore, Log, LogStore, Operation
from tests.engine.log_builder import Line, LogBuilder


def at(segment_id: int, block: int = 0) -> int:
    return segment_id * 8 + block


# NEXT


async def test_an_empty_log_ends_at_its_tail() -> None:
    reader, records = await LogBuilder().walk()
    assert records == []
    assert (reader.verdict, reader.end, reader.last) == (Verdict.END, at(1), None)
    reader.require_no_hole()


async def test_the_next_record_is_right_behind_or_at_the_next_segment() -> None:
    log = LogBuilder()
    await log.record(1, 0, 2)
    await log.record(1, 3, 1)
    await log.record(2, 0, 7)
    await log.record(3, 0, 3)
    await log.record(4, 0, 1)
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1), at(1, 3), at(2), at(3), at(4)]
    assert [record.first_index for record in records][:2] == [257, 260]
    assert (reader.verdict, reader.end) == (Verdict.END, at(4, 2))
    assert reader.last is not None
    assert reader.last.position == at(4)


async def test_a_record_may_leave_the_last_block_of_its_segment_empty() -> None:
    """One block has no room for a header and a line."""
    log = LogBuilder()
    await log.record(1, 0, 6)
    await log.record(2, 0, 1)
    assert await log.accepted() == [at(1), at(2)]


async def test_the_log_goes_around_the_ring_and_ends_before_its_own_tail() -> None:
    log = LogBuilder(segments=3)
    log.say(tail=4)
    for segment_id in (4, 5, 6):
        await log.record(segment_id, 0, 7, tail=4)
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(4), at(5), at(6)]
    assert reader.verdict is Verdict.END


async def test_the_first_record_need_not_link_to_anything() -> None:
    """What it links to lies before the tail, and may be overwritten."""
    log = LogBuilder()
    log.say(tail=3)
    await log.record(3, 0, 1, previous=(at(2, 5), 0x1234))
    assert await log.accepted() == [at(3)]


async def test_a_record_in_the_middle_of_the_tail_segment_is_no_beginning() -> None:
    log = LogBuilder()
    await log.record(1, 2, 1)
    reader, records = await log.walk()
    assert (records, reader.verdict) == ([], Verdict.END)


# Links and places


@pytest.mark.parametrize(
    "wrong",
    [
        {"previous": (at(1), 0)},
        {"previous": (at(2), None)},
        {"previous": (0, None)},
        {"uuid": UUID(int=5)},
        {"position": at(9, 2)},
        {"position": at(1, 3)},
        {"generation": 2},
    ],
    ids=["crc of another", "another position", "the log's beginning", "another cache", "a lap later", "elsewhere", "future"],
)
async def test_a_record_that_does_not_link_ends_the_log(wrong: dict[str, object]) -> None:
    log = LogBuilder()
    first = await log.record(1, 0, 1)
    if "previous" in wrong:
        position, crc = wrong["previous"]  # type: ignore[misc]
        wrong = {"previous": (position, first.crc if crc is None else crc)}
    await log.record(1, 2, 1, **wrong)  # type: ignore[arg-type]
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1)]
    assert reader.verdict is Verdict.END
    assert reader.end == at(1, 2)


async def test_a_record_that_runs_past_its_segment_is_none() -> None:
    log = LogBuilder()
    await log.record(1, 0, 3)
    await log.record(1, 4, 4)
    assert await log.accepted() == [at(1)]


async def test_a_generation_never_goes_back() -> None:
    log = LogBuilder()
    log.say(generation=3, generation_start=at(4), head=at(1, 2))
    await log.record(1, 0, 1, generation=2)
    await log.record(1, 2, 1, generation=1)
    log.say(head=at(1, 4))
    reader, records = await log.walk()
    assert len(records) == 1
    assert reader.verdict is Verdict.HOLE


# OLDER


async def test_older_a_new_generation_begins_where_its_superblock_says() -> None:
    log = LogBuilder()
    log.say(generation=2, generation_start=at(2), head=at(1, 4))
    await log.record(1, 0, 3, generation=1)
    await log.record(2, 0, 2, generation=2)
    await log.record(2, 3, 2, generation=2)
    assert await log.accepted() == [at(1), at(2), at(2, 3)]


@pytest.mark.parametrize("generation", [1, 2, 4])
async def test_older_a_record_behind_the_start_is_of_this_generation_or_none(generation: int) -> None:
    log = LogBuilder()
    log.say(generation=3, generation_start=at(2), head=at(1, 4))
    await log.record(1, 0, 3, generation=1)
    await log.record(2, 0, 2, generation=generation)
    assert await log.accepted() == [at(1)]


async def test_older_a_record_before_the_start_is_of_an_earlier_generation_or_none() -> None:
    log = LogBuilder()
    log.say(generation=2, generation_start=at(2), head=at(1, 4))
    await log.record(1, 0, 1, generation=1)
    await log.record(1, 2, 1, generation=2)
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1)]
    assert reader.verdict is Verdict.HOLE


async def test_older_what_lies_behind_the_cut_of_a_recovery_is_no_candidate() -> None:
    """A recovery ended the log at `head` and went on in the next segment: what was torn there stays dead."""
    log = LogBuilder()
    log.say(generation=2, generation_start=at(2), head=at(1, 2))
    first = await log.record(1, 0, 1, generation=1)
    torn = await log.record(1, 2, 2, generation=1)
    assert await log.accepted() == [at(1)]
    await log.record(2, 0, 1, generation=2, after=first)
    assert await log.accepted() == [at(1), at(2)]
    # the abandoned timeline went on before it was cut; nothing of it counts
    await log.record(1, 5, 1, generation=1, after=torn, durable=at(1, 5))
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1), at(2)]
    assert reader.verdict is Verdict.END


async def test_older_of_two_that_link_the_later_generation_is_next() -> None:
    """After a second recovery the first cut lies before `head`; the link alone would leave two successors."""
    log = LogBuilder()
    first = await log.record(1, 0, 1, generation=1)
    await log.record(1, 2, 2, generation=1)
    await log.record(2, 0, 3, generation=2, after=first)
    log.say(generation=3, generation_start=at(3), head=at(2, 4))
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1), at(2)]
    assert reader.end == at(2, 4)
    assert reader.verdict is Verdict.END


# HOLE and END


async def test_hole_the_superblock_knows_more() -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    await log.record(1, 2, 1)
    await log.record(1, 4, 1)
    log.say(head=at(1, 6))
    log.flip(at(1, 2), 50)
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1)]
    assert reader.verdict is Verdict.HOLE
    with pytest.raises(Damaged, match=r"/ssd.img: the log record at segment 1, block 2 was durable and is damaged.*lcfs check"):
        reader.require_no_hole()


async def test_hole_at_the_very_beginning() -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    log.say(head=at(1, 2))
    log.flip(at(1), 50)
    reader, records = await log.walk()
    assert (records, reader.verdict) == ([], Verdict.HOLE)


@pytest.mark.parametrize(("segment_id", "block"), [(1, 4), (1, 6), (2, 0), (2, 5), (3, 0), (8, 0)])
async def test_hole_a_record_further_on_knows_more(segment_id: int, block: int) -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    await log.record(1, 2, 1)
    await log.record(segment_id, block, 1, durable=at(1, 4))
    log.flip(at(1, 2), 50)
    reader, records = await log.walk()
    assert len(records) == 1
    assert reader.verdict is Verdict.HOLE
    assert reader.end == at(1, 2)


@pytest.mark.parametrize("durable", [0, at(1), at(1, 2)])
async def test_end_a_record_further_on_that_knew_no_more(durable: int) -> None:
    """Records are written side by side: a later one may be there and an earlier one not. Neither was durable."""
    log = LogBuilder()
    await log.record(1, 0, 1)
    await log.record(1, 2, 1)
    await log.record(2, 0, 1, durable=durable)
    log.flip(at(1, 2), 50)
    reader, records = await log.walk()
    assert len(records) == 1
    assert reader.verdict is Verdict.END


async def test_end_evidence_of_another_timeline_or_cache_is_none() -> None:
    log = LogBuilder()
    log.say(generation=3, generation_start=at(2), head=at(1, 2))
    await log.record(1, 0, 1, generation=1)
    await log.record(2, 0, 1, generation=2, durable=at(4))
    await log.record(3, 0, 1, generation=3, durable=at(4), uuid=UUID(int=9))
    await log.record(4, 0, 1, generation=3, durable=at(4), position=at(12))
    reader, records = await log.walk()
    assert len(records) == 1
    assert reader.verdict is Verdict.END


async def test_evidence_is_looked_for_as_far_as_there_are_write_buffers() -> None:
    log = LogBuilder(segments=LOOKAHEAD_SEGMENTS + 10)
    await log.record(1, 0, 1)
    await log.record(1 + LOOKAHEAD_SEGMENTS, 0, 1, durable=at(1, 3))
    reader, _ = await log.walk()
    assert reader.verdict is Verdict.HOLE
    log = LogBuilder(segments=LOOKAHEAD_SEGMENTS + 10)
    await log.record(1, 0, 1)
    await log.record(2 + LOOKAHEAD_SEGMENTS, 0, 1, durable=at(1, 3))
    reader, _ = await log.walk()
    assert reader.verdict is Verdict.END


async def test_after_a_clean_stop_the_superblock_alone_decides() -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    log.say(clean=True, head=at(1, 2))
    reader, records = await log.walk()
    assert (len(records), reader.verdict) == (1, Verdict.END)
    # a damaged last record is damage then, no torn tail
    log.flip(at(1), 60)
    reader, records = await log.walk()
    assert (records, reader.verdict) == ([], Verdict.HOLE)


# Lines


async def test_torn_lines_that_were_never_durable_end_the_log_before_their_record() -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    await log.record(1, 2, 3)
    log.flip(at(1, 4))
    reader, records = await log.walk()
    assert [record.header.position for record in records] == [at(1)]
    assert reader.verdict is Verdict.TORN
    assert reader.end == at(1, 2)
    reader.require_no_hole()


async def test_bad_lines_of_a_durable_record_are_told_and_the_record_counts() -> None:
    log = LogBuilder()
    await log.record(1, 0, 1)
    await log.record(1, 2, 3)
    await log.record(2, 0, 2, durable=at(1, 6))
    log.flip(at(1, 3))
    log.flip(at(1, 5))
    reader, records = await log.walk()
    assert [record.bad_lines for record in records] == [(), (0, 2), ()]
    assert reader.verdict is Verdict.END


async def test_a_record_that_was_durable_in_part_only_is_torn() -> None:
    """`durable` may point into a record only where it was sealed in between; here it ends before the last line."""
    log = LogBuilder()
    await log.record(1, 0, 3)
    await log.record(2, 0, 2, durable=at(1, 3))
    log.flip(at(1, 3))
    reader, records = await log.walk()
    assert (records, reader.verdict) == ([], Verdict.TORN)


async def test_lines_without_dirty_bits_are_not_judged() -> None:
    log = LogBuilder()
    await log.record(1, 0, [Line(5, 1, dirty=0), Line(5, 2)])
    log.flip(at(1, 1))
    _, records = await log.walk()
    assert [record.bad_lines for record in records] == [()]


async def test_lines_before_head_are_read_only_on_demand() -> None:
    log = LogBuilder()
    for segment_id in range(1, 7):
        await log.record(segment_id, 0, 7)
    log.say(head=at(7), clean=True)
    log.flip(at(2, 5))
    calls = Log()
    reader = LogReader(LogStore(log.store, calls), log.superblock)
    records = [record async for record in reader.walk()]
    assert [record.bad_lines for record in records] == [()] * 6
    assert calls.bytes_of(Operation.READ) <= 6 * LINE + 2 * 8 * LINE
    _, records = await log.walk(check_all=True)
    assert [record.bad_lines for record in records] == [(), (4,), (), (), (), ()]


async def test_an_image_that_cannot_be_read_is_an_error_of_the_system() -> None:
    log = LogBuilder()
    await log.record(1, 0, 7)
    reader = LogReader(FaultStore(log.store, Fault(Operation.READ, times=None)), log.superblock)
    with pytest.raises(OSError, match="injected"):
        async for _ in reader.walk():
            pass


# Everything together


@attrs.frozen
class Plan:
    """A log as a writer makes it: record sizes, where it changes segment early, and how far it was durable when."""

    records: list[tuple[int, bool, int]]
    """Lines, whether the next record begins a segment, records of lag between sealing and durability."""
    head: int
    """Records that the superblock knows to be durable."""
    damaged: int
    """Record to be damaged."""
    in_header: bool


plans = st.builds(
    Plan,
    st.lists(st.tuples(st.integers(1, 7), st.booleans(), st.integers(1, 4)), min_size=1, max_size=12),
    st.integers(0, 12),
    st.integers(0, 11),
    st.booleans(),
)


@given(plans)
def test_damage_and_torn_tails_are_told_apart(plan: Plan) -> None:
    """A record that anything intact says was durable is never cut off; one of which nothing says so always is."""
    trio.run(_judge, plan)


async def _judge(plan: Plan) -> None:
    log = LogBuilder(segments=20)
    segment_id, block = 1, 0
    headers: list[RecordHeader] = []
    for count, roll, lag in plan.records:
        if block + 1 + count > 8:
            segment_id, block = segment_id + 1, 0
        durable = headers[-lag].end if lag <= len(headers) else 0
        headers.append(await log.record(segment_id, block, count, durable=durable))
        block += 1 + count
        if roll or block + 1 >= 8:
            segment_id, block = segment_id + 1, 0
    victim = plan.damaged % len(headers)
    known = min(plan.head, len(headers))
    log.say(head=headers[known - 1].end if known else 0)
    log.flip(headers[victim].position + (0 if plan.in_header else headers[victim].count), 17)
    reader, records = await log.walk(check_all=True)

    known_to_all = max([log.superblock.head, *(header.durable for header in headers[victim + 1 :])])
    if plan.in_header:
        expected = (victim, Verdict.HOLE if known_to_all > headers[victim].position else Verdict.END)
    elif known_to_all >= headers[victim].end:
        expected = (len(headers), Verdict.END)
    else:
        expected = (victim, Verdict.TORN)
    assert (len(records), reader.verdict) == expected
    if expected[0] > victim:
        assert records[victim].bad_lines == (headers[victim].count - 1,)
