# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents: dirty sectors that lie side by side on a backing are one write. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcfs.engine.block_store import Buffer
from lcfs.engine.geometry import FULL, LINE, SECTOR, SECTORS_PER_LINE

Extent = tuple[int, Sequence[Buffer]]
"""Offset on the backing, and what is written there one behind the other."""

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


def extents_of(
    lines: np.ndarray[tuple[int], np.dtype[np.int64]],
    masks: list[int],
    data: memoryview,
    places: list[int],
    order: list[int],
) -> list[Extent]:
    """The writes that carry these lines: dirty sectors only, neighbours in one write, ascending."""
    extents: list[tuple[int, list[Buffer]]] = []
    end = -1
    addresses = lines.tolist()
    for row in order:
        start, place, mask = addresses[row] * LINE, places[row], masks[row]
        for first, last in ((0, LINE),) if mask == FULL else SECTOR_RUNS[mask]:
            if start + first == end:
                extents[-1][1].append(data[place + first : place + last])
            else:
                extents.append((start + first, [data[place + first : place + last]]))
            end = start + last
    return [(offset, buffers) for offset, buffers in extents]
