# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents: which writes carry a set of dirty lines."""

from __future__ import annotations

import random

import numpy as np

from lcfs.engine.extents import Extent, add_extents
from lcfs.engine.geometry import FULL, LINE, SECTOR, SECTORS_PER_LINE


def test_extents_carry_each_dirty_sector_once_in_as_few_writes_as_can_be() -> None:
    rng = random.Random(1)
    for _ in range(300):
        count = rng.randrange(1, 30)
        lines = np.array(rng.sample(range(40), count), np.int64)
        if rng.random() < 0.5:
            lines.sort()  # as in a sequential log, where rows are neighbours, too
        masks = np.array([FULL if rng.random() < 0.6 else rng.randrange(1, 256) for _ in lines], np.uint8)
        data = memoryview(rng.randbytes(count * LINE))
        good = np.array([rng.random() < 0.9 for _ in lines])
        order = np.argsort(lines)
        order = order[good[order]]
        extents: list[Extent] = []
        step = rng.randrange(1, count + 1)
        for at in range(0, len(order), step):
            add_extents(extents, lines, masks, data, order[at : at + step])

        wanted: dict[int, bytes] = {}
        for row, (line, mask) in enumerate(zip(lines.tolist(), masks.tolist(), strict=True)):
            for sector in range(SECTORS_PER_LINE):
                if good[row] and mask >> sector & 1:
                    at = row * LINE + sector * SECTOR
                    wanted[line * LINE + sector * SECTOR] = bytes(data[at : at + SECTOR])
        found: dict[int, bytes] = {}
        end = -1
        for offset, buffers in extents:
            assert offset > end, "ascending, and neighbours are one write"
            content = b"".join(buffers)
            end = offset + len(content)
            found |= {offset + at: content[at : at + SECTOR] for at in range(0, len(content), SECTOR)}
        assert found == wanted


def test_lines_that_lie_one_behind_the_other_are_one_buffer() -> None:
    extents: list[Extent] = []
    lines, masks = np.arange(100, 110, dtype=np.int64), np.full(10, FULL, np.uint8)
    data = memoryview(bytes(10 * LINE))
    add_extents(extents, lines, masks, data, np.arange(10))
    ((offset, buffers),) = extents
    assert (offset, [len(buffer) for buffer in buffers]) == (100 * LINE, [10 * LINE])
    add_extents(extents, lines, masks, data, np.array([], np.intp))
    assert len(extents) == 1
