# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans: what is written together, what it costs, and that nothing else changes."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence

import numpy as np
import pytest
import trio.testing

from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE
from lcfs.engine.request_cost import MIB, MOST_PRICE, RequestCost
from lcfs.engine.spans import SPAN, near, spans
from lcfs.testing import Choose, Effect, Fault, MemoryStore, Operation, keep_all, lose_all
from lcfs.testing.unsynced import Survival, UnsyncedWrite
from tests.engine.rig import Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
PRICE = 64 * LINE


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request costs as much as 64 lines."""
    monkeypatch.setattr(RequestCost, "least", PRICE)


def keep_some(writes: Sequence[UnsyncedWrite]) -> Survival:
    """Every third sector of each write."""
    return [sum(1 << sector for sector in range(0, write.nr_sectors, 3)) for write in writes]


def extents(*lines: int) -> list[tuple[int, list[bytes]]]:
    return [(line * LINE, [page(line)]) for line in lines]


def test_two_apart_stay_two_and_three_become_one() -> None:
    (two,) = spans(extents(0, 8), PRICE)
    assert not two.rewritten and len(two.extents) == 2
    (three,) = spans(extents(0, 8, 16), PRICE)
    assert three.rewritten and (three.start, three.end, three.dirty) == (0, 17 * LINE, 3 * LINE)
    assert [span.rewritten for span in spans(extents(0, 8, 16), 0)] == [False] * 3


def test_a_gap_that_costs_more_than_a_request_ends_a_span() -> None:
    assert [span.start // LINE for span in spans(extents(0, 32, 66), PRICE)] == [0, 66]


def test_no_span_crosses_its_boundary() -> None:
    border = SPAN // LINE
    assert [span.start // LINE for span in spans(extents(border - 2, border - 1, border, border + 1), PRICE)] == [
        border - 2,
        border,
    ]


def test_spans_lay_what_is_dirty_over_what_is_there_and_lose_nothing() -> None:
    rng = random.Random(1)
    for _ in range(200):
        disk = bytearray(rng.randbytes(600 * LINE))
        wanted, chosen = bytearray(disk), sorted(rng.sample(range(600), rng.randrange(1, 60)))
        parts = []
        for line in chosen:
            first = rng.randrange(8)
            end = rng.randrange(first, 8) + 1
            data = page(line)[first * 512 : end * 512]
            parts.append((line * LINE + first * 512, [data]))
            wanted[line * LINE + first * 512 : line * LINE + end * 512] = data
        for span in spans(parts, rng.choice((0, 1000, 2 * LINE, PRICE, MOST_PRICE))):
            if span.rewritten:
                span.lay_over(memoryview(disk)[span.start : span.end])
            else:
                for offset, (buffer,) in span.extents:
                    disk[offset : offset + len(buffer)] = buffer
        assert disk == wanted


async def test_parts_of_lines_survive_whatever_a_request_costs(autojump_clock: Clock) -> None:
    """Spans are read and written in whole lines, the reads before the writes: two must never share a line."""
    rng = random.Random(2)
    async with Rig.running() as rig:
        for _ in range(300):
            disk = bytearray(rng.randbytes(16 * LINE))
            store = MemoryStore.of_size(len(disk))
            await store.write(0, [bytes(disk)])
            parts: list[tuple[int, list[bytes]]] = []
            for sector in range(16 * 8):
                if rng.random() < 0.3:
                    data = rng.randbytes(512)
                    disk[sector * 512 : (sector + 1) * 512] = data
                    if parts and parts[-1][0] + 512 * len(parts[-1][1]) == sector * 512:
                        parts[-1][1].append(data)
                    else:
                        parts.append((sector * 512, [data]))
            await rig.cache.migrator._write_spans(store, parts, rng.randrange(0, 4 * LINE))
            found = bytearray(len(disk))
            await store.readinto(0, memoryview(found))
            assert found == disk


def test_near_is_what_can_share_a_span() -> None:
    lines = np.array([0, 90, 120, 255, 256, 300, 900])
    assert near(lines, np.array([100, 254]), 40 * LINE).tolist() == [False, True, True, True, False, False, False]


def test_the_price_of_a_request_is_learnt_and_followed() -> None:
    cost = RequestCost()
    assert (cost.known, cost.price) == (False, 0)
    for _ in range(20):
        for size in (LINE, MIB):
            cost.note(10, 10 * size, 10 * (0.008 + 0.01 * size / MIB))
    assert cost.price == pytest.approx(0.8 * MIB, rel=0.1)
    for _ in range(100):
        cost.note(10, 10 * LINE, 10 * 0.00001)
    assert cost.price < 2 * LINE


def test_the_first_slow_job_is_enough() -> None:
    cost = RequestCost()
    cost.note(256, 256 * LINE, 256 * 0.008)
    assert cost.price > MIB


async def test_lines_of_the_whole_log_that_share_a_span_become_clean_with_the_oldest(dear: None, autojump_clock: Clock) -> None:
    async with Rig.running(segments=16) as rig:
        for line in (40, 0, 1, 3, 5, 7, 9, 11, 13, 41, 43, 45, 47):
            await rig.write(1, line * LINE, page(line))
        await rig.cache.barrier()
        ring = rig.cache.ring
        before = ring.geometry.blocks_per_segment * (ring.tail + 1)
        assert await rig.cache.migrator.write_back(rig.devices[1], ring.tail, ring.tail, before) == 13
        assert len(rig.written("disk1")) == 1
        assert rig.cache.nr_dirty_caches == 0
        rig.check_counts()


async def test_lines_whose_log_is_not_durable_stay_out_of_a_span(dear: None, autojump_clock: Clock) -> None:
    """R3: a backing holds nothing that recovery would not find."""
    async with Rig.running(segments=16) as rig:
        for line in (0, 2, 4, 6, 8, 10, 12):
            await rig.write(1, line * LINE, page(line))
        await rig.cache.barrier()
        for line in (3, 5, 14):
            await rig.write(1, line * LINE, page(100 + line))
        ring = rig.cache.ring
        await rig.cache.migrator.write_back(rig.devices[1], ring.tail, ring.tail, rig.cache.durable)
        assert rig.backing(1, 3 * LINE, LINE) == bytes(LINE)
        assert rig.backing(1, 4 * LINE, LINE) == page(4)
        assert rig.cache.nr_dirty_caches == 3


async def _seven_over(rig: Rig) -> None:
    """Old content below, and dirty parts of every other line over it."""
    for line in range(16):
        await rig.write(1, line * LINE, page(line))
    await rig.cache.drop_caches()
    for line in range(1, 15, 2):
        await rig.write(1, line * LINE + 512, page(100 + line)[512:2048])
    rig.log.clear()


def _content() -> bytes:
    content = bytearray(page(0))
    for line in range(1, 16):
        content += page(line)
        if line % 2 and line < 14:
            content[line * LINE + 512 : line * LINE + 2048] = page(100 + line)[512:2048]
    return bytes(content)


async def test_a_span_is_read_once_and_written_once(dear: None, autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await _seven_over(rig)
        await rig.cache.drop_caches()
        # in whole lines, so that the kernel need not read what lies around the dirty sectors
        assert rig.written("disk1") == [(LINE, 13 * LINE)]
        assert rig.backing(1, 0, 16 * LINE) == _content()


async def test_a_span_ends_with_the_disk(dear: None, autojump_clock: Clock) -> None:
    """A size that is no multiple of a line: nothing is read or written behind it."""
    size = 15 * LINE + 512
    async with Rig.running(disks={1: size}) as rig:
        for line in (1, 3, 5, 7, 9, 11, 13):
            await rig.write(1, line * LINE, page(line))
        await rig.write(1, 15 * LINE, page(15)[:512])
        rig.log.clear()
        await rig.cache.drop_caches()
        assert rig.written("disk1") == [(LINE, size - LINE)]
        assert rig.backing(1, 13 * LINE, 2 * LINE + 512) == page(13) + bytes(LINE) + page(15)[:512]


async def test_what_cannot_be_read_is_written_line_by_line(dear: None, autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await _seven_over(rig)
        rig.backings[1].add(Fault(Operation.READ, times=None))
        await rig.cache.drop_caches()
        assert len(rig.written("disk1")) == 7
        rig.backings[1].fault.faults.clear()
        assert rig.backing(1, 0, 16 * LINE) == _content()


async def test_where_the_holes_between_them_find_no_room_the_lines_may(dear: None, autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await _seven_over(rig)
        rig.backings[1].add(Fault(Operation.WRITE, error=errno.ENOSPC))
        await rig.cache.drop_caches()
        assert [length for _, length in rig.written("disk1")] == [13 * LINE] + 7 * [1536]
        assert rig.backing(1, 0, 16 * LINE) == _content()


@pytest.mark.parametrize("choose", [lose_all, keep_all, keep_some])
async def test_a_span_half_written_leaves_clean_sectors_as_they_were(
    choose: Choose, dear: None, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    async with Rig.running() as rig:
        await _seven_over(rig)
        rig.backings[1].add(Fault(Operation.WRITE, Effect.SHORT))
        expect_log("disk 1 is degraded")
        with pytest.raises(Failed):
            await rig.cache.drop_caches()
        assert rig.cache.nr_dirty_caches == 7
        lab = rig.lab.crash(choose)
    clean = lab.backings[1].durable.read(0, 16 * LINE)
    for sector in range(16 * 8):
        at = sector * 512
        assert clean[at : at + 512] in (page(sector // 8)[at % LINE :][:512], _content()[at : at + 512])
    async with lab.run() as rig:
        assert await rig.read(1, 0, 16 * LINE) == _content()
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, 16 * LINE) == _content()
