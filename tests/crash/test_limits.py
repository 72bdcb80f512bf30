# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that only a large cache would meet, made small: too few buffers, too much unsynced log, batches that do not fit."""

import pytest

from lcfs.engine import flush, line_reader, log, log_reader, migrate, read_path, ring, spans, write_path
from lcfs.engine.barrier import Barriers
from lcfs.engine.block_store import BlockStore
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.migrate import Migrator
from lcfs.engine.recover import resume_cache
from lcfs.engine.spans import Span
from lcfs.engine.write_buffer import BufferPool, WriteBuffer
from lcfs.testing import world as world_module
from lcfs.testing.explore import WORKLOADS_PER_SEED, in_trio
from lcfs.testing.explorer import Explorer, Found, Script, script_of
from lcfs.testing.steps import STEPS
from lcfs.testing.world import Setup, World
from tests.planted.edit import Edit, planted

STATES = 3000


@pytest.mark.parametrize("nr_buffers", [1, 3])
def test_no_promise_is_broken_where_limits_are_met(nr_buffers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resume_cache.__kwdefaults__, "nr_buffers", nr_buffers)
    monkeypatch.setattr(log, "UNSYNCED_SEGMENTS", 1)
    monkeypatch.setattr(log, "MOST_UNSYNCED", 1 + nr_buffers)
    monkeypatch.setattr(log_reader, "LOOKAHEAD_SEGMENTS", 3 + nr_buffers)
    monkeypatch.setattr(flush, "WRITES_PER_HOP", 1)
    monkeypatch.setattr(ring, "SCAN_SEGMENTS", 1)
    monkeypatch.setattr(read_path, "SMALL_RUN", 1)
    monkeypatch.setattr(write_path, "SMALL_RUN", 1)
    monkeypatch.setattr(migrate, "EXTENTS_PER_HOP", 1)
    monkeypatch.setattr(migrate, "CHUNK", 1)
    monkeypatch.setattr(migrate, "LOOK_SEGMENTS", 1)
    monkeypatch.setattr(line_reader, "CHUNK", 1)
    monkeypatch.setattr(migrate, "FIRST_DRAIN", 1)
    monkeypatch.setattr(migrate, "BATCH_LINES", 2)
    monkeypatch.setattr(Migrator.write_back, "__defaults__", (2,))
    met = {"no buffer": 0, "a flush asked for by the log": 0}
    take, request = BufferPool.take_nowait, Barriers.request

    def counted_take(pool: BufferPool) -> WriteBuffer | None:
        buffer = take(pool)
        met["no buffer"] += buffer is None
        return buffer

    def counted_request(barriers: Barriers, position: int) -> None:
        met["a flush asked for by the log"] += 1
        request(barriers, position)

    monkeypatch.setattr(BufferPool, "take_nowait", counted_take)
    monkeypatch.setattr(Barriers, "request", counted_request)

    async def explore() -> None:
        explorer = Explorer(STATES)
        number = nr_buffers * WORKLOADS_PER_SEED
        while not explorer.done:
            await explorer.explore(script_of(number))
            number += 1

    in_trio(explore)
    assert all(met.values()), met


async def explore_dear(explorer: Explorer) -> None:
    """Only worlds in which lines that lie close together are written as spans."""
    number = 7 * WORKLOADS_PER_SEED
    while not explorer.done:
        script = script_of(number)
        if script.setup.dear:
            await explorer.explore(script)
        number += 1


def count_spans(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    """Those that are read from now on, as they are."""
    met: list[Span] = []
    laid_over = Migrator._laid_over

    async def counted(migrator: Migrator, store: BlockStore, span: Span) -> tuple[int, memoryview] | None:
        met.append(span)
        return await laid_over(migrator, store, span)

    monkeypatch.setattr(Migrator, "_laid_over", counted)
    return met


def test_no_promise_is_broken_where_lines_are_written_as_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    met = count_spans(monkeypatch)
    in_trio(explore_dear, Explorer(2 * STATES))
    assert len(met) > 10


async def _write_scattered_sectors(world: World) -> None:
    """Two groups, each worth a span where a request costs a little less than a line, with a gap between them in one line."""
    for sector in (1, 3, 5, 7, 9, 14, 16, 18, 20, 22):
        await world.write(1, sector * SECTOR, SECTOR)
    await world.barrier(1)


def explore_scattered(monkeypatch: pytest.MonkeyPatch) -> Explorer:
    monkeypatch.setattr(world_module, "DEAR", LINE - 200)
    monkeypatch.setitem(STEPS, "write scattered sectors", _write_scattered_sectors)
    explorer = Explorer(STATES)
    steps = ("write scattered sectors", "drop_caches", "write scattered sectors", "drop_caches")
    in_trio(lambda: explorer.explore(Script(Setup(dear=True), 1, "nothing", steps)))
    return explorer


def test_no_promise_is_broken_where_a_request_costs_less_than_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    met = count_spans(monkeypatch)
    assert explore_scattered(monkeypatch).states > 20
    # the gap alone would part them; the line they share keeps them together
    assert {(span.start, span.end) for span in met} == {(SECTOR, 23 * SECTOR)}


def test_two_spans_in_one_line_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Edit(spans.spans, "is_apart = offset // LINE > (end - 1) // LINE", "is_apart = True")
    with planted([edit]), pytest.raises(Found, match=r"R1|read"):
        explore_scattered(monkeypatch)


@pytest.mark.parametrize(
    "edit",
    [
        Edit(Migrator._with_neighbours, "early = positions < before", "early = positions < positions + 1"),
        Edit(Migrator._laid_over, "span.lay_over(data[span.start - start :])", "pass"),
        Edit(Migrator._laid_over, "if not store.readinto_nowait(start, data):", "if False:"),
    ],
    ids=["a neighbour that is not durable", "lines that are left out", "a span that was not read"],
)
def test_what_is_wrong_with_spans_is_found(edit: Edit) -> None:
    with planted([edit]), pytest.raises(Found, match=r"R[123]|read|damaged"):
        in_trio(explore_dear, Explorer(10 * STATES))
