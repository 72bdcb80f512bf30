# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading lines from the image to write them back: many at a time, each checked against its CRC.

What the page cache has is read in place, the rest in one thread hop: migration takes the lowest addresses first, which lie
scattered over the log, and a hop costs a hundred times a read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.block_store import BlockStore
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import anonymous
from lcfs.engine.ring import Indices, Ring
from lcfs.engine.unreadable import Unreadable

log = logging.getLogger("lcfs.engine.migrate")

CHUNK = 128
"""Lines that are read or checked before others have their turn: a fraction of a millisecond."""
READ_AGAIN = 3
"""Times a line that fails its CRC is read again, READ_AGAIN_PAUSE seconds apart, before it counts as damaged."""
READ_AGAIN_PAUSE = 0.1


class Read(NamedTuple):
    """What became of each line: it matches its CRC, or it does not. One that is neither could not be read, which may
    pass (unreadable.py).
    """

    good: list[bool]
    damaged: list[bool]


class LineReader:
    """Of one image."""

    def __init__(self, ring: Ring, image: BlockStore, unreadable: Unreadable) -> None:
        self._ring = ring
        self._image = image
        self._unreadable = unreadable
        self._spare: memoryview | None = None

    @contextmanager
    def memory(self, lines: int) -> Iterator[memoryview]:
        """Room for so many lines, page-aligned.

        The last one is kept for the next who asks: fresh memory costs more than what is done with it. Not after an
        exception, since a worker thread may have been left behind that still uses it.
        """
        room, self._spare = self._spare, None
        if room is None or len(room) < lines * LINE:
            room = memoryview(anonymous(lines * LINE))
        yield room[: lines * LINE]
        self._spare = room

    async def read(self, indices: Indices, crcs: list[int], data: memoryview) -> Read:
        """Fill `data` with these lines (their indices ascending), one behind the other.

        Others run meanwhile: a line may be overtaken, and its slot given away.
        """
        positions = self._ring.positions(indices).tolist()
        numbers = indices.tolist()
        count = len(numbers)
        failed = await self._fill(indices, data)
        good: list[bool] = []
        for at in range(0, count, CHUNK):
            good += [crc32c(data[row * LINE : (row + 1) * LINE]) == crcs[row] for row in range(at, min(at + CHUNK, count))]
            await trio.lowlevel.checkpoint()
        for _ in range(READ_AGAIN):
            if all(good):
                break
            await trio.sleep(READ_AGAIN_PAUSE)
            for row in range(count):
                if not good[row]:
                    line = data[row * LINE : (row + 1) * LINE]
                    failed.discard(numbers[row])
                    failed.update(await self.read_blocks(numbers[row], line))
                    good[row] = numbers[row] not in failed and crc32c(line) == crcs[row]
        unread = [not good[row] and numbers[row] in failed for row in range(count)]
        self._unreadable.forget([positions[row] for row in range(count) if not unread[row]])
        if news := self._unreadable.note([positions[row] for row in range(count) if unread[row]]):
            first = next(numbers[row] for row in range(count) if positions[row] == news[0])
            log.warning(
                "%d lines cannot be read, from block %d of %s on; they stay dirty and are tried again",
                len(news),
                first,
                self._image.name,
            )
        return Read(good, [not good[row] and not unread[row] for row in range(count)])

    async def _fill(self, indices: Indices, data: memoryview) -> set[int]:
        """Read the lines, neighbours together; returns those that cannot be read, which are left zero."""
        begins = np.flatnonzero(np.diff(indices, prepend=-1) != 1)
        begins = np.union1d(begins, np.arange(0, len(indices), CHUNK))
        ends = [*begins[1:].tolist(), len(indices)]
        cold: list[tuple[int, memoryview]] = []
        at = 0
        for first, begin, end in zip(indices[begins].tolist(), begins.tolist(), ends, strict=True):
            part = data[begin * LINE : end * LINE]
            if not self._image.readinto_nowait(first * LINE, part):
                cold.append((first * LINE, part))
            if end - at >= CHUNK:
                at = end
                await trio.lowlevel.checkpoint()
        if not cold:
            return set()
        try:
            await self._image.readinto_extents(cold)
        except OSError:
            # which of them it is has to be found out
            return {block for offset, part in cold for block in await self.read_blocks(offset // LINE, part)}
        return set()

    async def read_blocks(self, first: int, out: memoryview) -> list[int]:
        """Neighbouring blocks of the image; returns those that cannot be read, which are left zero."""
        try:
            await self._image.readinto(first * LINE, out)
        except OSError as exc:
            if len(out) == LINE:
                log.debug("block %d of %s cannot be read: %s", first, self._image.name, exc)
                out[:] = bytes(LINE)
                return [first]
            failed = []
            for at in range(0, len(out), LINE):
                failed += await self.read_blocks(first + at // LINE, out[at : at + LINE])
            return failed
        return []
