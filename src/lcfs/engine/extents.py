# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents: dirty sectors that lie side by side on a backing are one write. Pure: no I/O."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lcfs.engine.block_store import Buffer
from lcfs.engine.geometry import FULL, LINE, SECTOR, SECTORS_PER_LINE

Extent = tuple[int, list[Buffer]]
"""Offset on the backing, and what is written there one behind the other."""

Lines = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

SECTOR_RUNS: list[list[tuple[int, int]]] = []
"""For each mask the byte ranges of its runs of sectors."""
for _mask in range(256):
    _runs: list[tuple[int, int]] = []
    for _sector in range(SECTORS_PER_LINE):
        if _mask >> _sector & 1:
            if _runs and _runs[-1][1] == _sector * SECTOR:
                _runs[-1] = (_runs[-1][0], (_sector + 1) * SECTOR)
            else:
                _runs.append((_sector * SECTOR, (_sector + 1) * SECTOR))
    SECTOR_RUNS.append(_runs)


def add_extents(extents: list[Extent], lines: Lines, masks: Masks, data: memoryview, rows: Rows) -> None:
    """Add the writes that carry the lines of `rows`: dirty sectors only, neighbours in one write.

    Row `r` is line `lines[r]`, of which the sectors `masks[r]` are dirty; its content is the `r`th line of `data`. `rows`
    are in ascending order of lines, and behind those that `extents` has already.
    """
    if not len(rows):
        return
    full = masks[rows] == FULL
    joined = (np.diff(lines[rows]) == 1) & (np.diff(rows) == 1) & full[1:] & full[:-1]
    firsts = np.flatnonzero(np.concatenate(([True], ~joined)))
    counts = np.diff(firsts, append=len(rows)).tolist()
    begins = rows[firsts]
    end = extents[-1][0] + sum(map(len, extents[-1][1])) if extents else -1
    for line, row, mask, count in zip(lines[begins].tolist(), begins.tolist(), masks[begins].tolist(), counts, strict=True):
        start, place = line * LINE, row * LINE
        for first, last in ((0, count * LINE),) if mask == FULL else SECTOR_RUNS[mask]:
            part = data[place + first : place + last]
            if start + first == end:
                extents[-1][1].append(part)
            else:
                extents.append((start + first, [part]))
            end = start + last
