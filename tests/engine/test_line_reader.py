# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading lines to write them back: in place or in one go, each judged by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import trio.testing
from crc32c import crc32c

from lcfs.engine import line_reader
from lcfs.engine.geometry import LINE
from lcfs.engine.line_reader import LineReader
from lcfs.engine.unreadable import Unreadable
from lcfs.testing import Fault, Operation
from tests.engine.rig import Rig, page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


class Bench:
    """A segment on the image, with lines 0, 1, 2 ... in it, and a reader of its own."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        ring = rig.cache.ring
        self.unreadable = Unreadable(ring)
        self.reader = LineReader(ring, rig.image, self.unreadable)
        self.first = ring.geometry.start_block(1) + 1

    async def read(self, *rows: int) -> tuple[list[bool], list[bool], bytes]:
        """Which of these lines are good, which damaged, and what was read."""
        indices = np.array([self.first + row for row in rows])
        with self.reader.memory(len(rows)) as data:
            good, damaged = await self.reader.read(indices, [crc32c(page(row)) for row in rows], data)
            return good, damaged, bytes(data)


async def bench(rig: Rig, count: int = 20) -> Bench:
    for row in range(count):
        await rig.write(1, row * LINE, page(row))
    await rig.cache.flush_current_buffer()
    await rig.cache.barrier()
    return Bench(rig)


@pytest.mark.parametrize("nowait", [True, False])
async def test_lines_are_read_one_behind_the_other(
    nowait: bool, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_reader, "CHUNK", 3)
    async with Rig.running(blocks=32) as rig:
        b = await bench(rig)
        together: list[list[int]] = []
        inner = rig.image.readinto_extents

        async def counted(extents: Sequence[tuple[int, memoryview]]) -> None:
            together.append([len(part) // LINE for _, part in extents])
            await inner(extents)

        monkeypatch.setattr(rig.image, "readinto_extents", counted)
        if not nowait:
            monkeypatch.setattr(rig.image, "readinto_nowait", lambda offset, buffer: False)
        rows = (0, 1, 4, 5, 6, 7, 8, 19)
        good, damaged, data = await b.read(*rows)
        assert (all(good), any(damaged)) == (True, False)
        assert data == b"".join(map(page, rows))
        # neighbours together, no run longer than CHUNK rows, and everything that waits in one go
        assert together == ([] if nowait else [[2, 1, 3, 1, 1]])


async def test_others_have_their_turn_between_chunks(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_reader, "CHUNK", 2)
    async with Rig.running(blocks=32) as rig:
        b = await bench(rig)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await b.read(*range(20))
            nursery.cancel_scope.cancel()
        assert turns >= 18  # ten chunks read, ten checked


async def test_a_line_that_cannot_be_read_and_one_that_is_damaged(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log(r"1 lines cannot be read, from block \d+ of")
    async with Rig.running(blocks=32) as rig:
        b = await bench(rig)
        rig.image.medium.live.write((b.first + 5) * LINE, page(99))
        at = (b.first + 3) * LINE
        rig.image.add(Fault(Operation.READ, start=at, end=at + LINE, times=None))
        good, damaged, data = await b.read(2, 3, 4, 5)
        assert good == [True, False, True, False]
        assert damaged == [False, False, False, True], "what cannot be read may be as good as ever"
        assert data == page(2) + bytes(LINE) + page(4) + page(99)
        assert b.unreadable


async def test_memory_is_kept_but_not_when_a_thread_may_still_use_it(autojump_clock: Clock) -> None:
    async with Rig.running(blocks=32) as rig:
        reader = Bench(rig).reader
        with reader.memory(4) as first:
            first[0] = 7
            with reader.memory(1) as other:
                assert other[0] == 0
        with reader.memory(3) as again:
            assert (again[0], len(again)) == (7, 3 * LINE)
        with pytest.raises(ZeroDivisionError), reader.memory(3):
            raise ZeroDivisionError
        with reader.memory(3) as fresh:
            assert fresh[0] == 0
