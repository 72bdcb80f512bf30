# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of segments in a few runs, for somebody who looks at it. No I/O.

A run is neighbouring slots of the same kind. What it costs does not grow with the cache: of a ring with more than
MOST_LOOKED_AT slots every second, third ... is looked at, and where they make too many runs neighbours are put
together.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lcfs.engine.ring import Ring

MOST_LOOKED_AT = 4096
MOST_RUNS = 160
"""So that they fit a page as text."""

KINDS = ("free", "clean", "dirty", "ram", "open")
"""Holds no line; holds lines that are all on their backings; some are not; not completely on the image; takes lines."""
FREE, CLEAN, DIRTY, RAM, OPEN = range(len(KINDS))


class Run(NamedTuple):
    """`slots` neighbours of a kind; `dirty`: percent of the lines they have room for that are dirty, rounded up."""

    slots: int
    kind: str
    dirty: int


def segment_map(ring: Ring, in_ram: Collection[int]) -> list[Run]:
    """The ring from slot 0 on. `in_ram` are the slots whose segments are not completely on the image."""
    geometry = ring.geometry
    nr_segments = geometry.nr_segments
    step = -(-nr_segments // MOST_LOOKED_AT)
    kinds, dirty = _look(ring, step)
    special = dict.fromkeys(in_ram, RAM)
    if ring.segment_id and not ring.closed:
        special[geometry.slot(ring.segment_id)] = OPEN
    for slot, kind in special.items():
        kinds[slot // step] = max(kind, kinds[slot // step])
    lines = geometry.lines_per_segment
    while True:
        # neighbours in the same tenth are one run; without dirty lines is a tenth of its own
        tenths = -(-dirty * 10 // lines)
        begins = np.flatnonzero(np.diff(kinds * 16 + tenths, prepend=-1))
        if len(begins) <= MOST_RUNS:
            break
        kinds, dirty, step = _pairs(kinds, np.maximum), -(-_pairs(dirty, np.add) // 2), step * 2
    runs = []
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(kinds)], strict=True):
        slots = min(end * step, nr_segments) - begin * step
        runs.append(Run(slots, KINDS[kinds[begin]], math.ceil(100 * float(dirty[begin:end].mean()) / lines)))
    return runs


def _look(ring: Ring, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The kind, and the number of dirty lines, of every `step`th slot."""
    geometry, states = ring.geometry, ring.states
    shape = (geometry.nr_segments, geometry.blocks_per_segment)
    dirty_array = states.dirty_array[geometry.first_block : geometry.nr_blocks].reshape(shape)[::step]
    valid_array = states.valid_array[geometry.first_block : geometry.nr_blocks].reshape(shape)[::step]
    dirty = np.count_nonzero(dirty_array, axis=1)
    kinds = np.where(dirty != 0, DIRTY, np.where(valid_array.any(axis=1), CLEAN, FREE))
    return kinds, dirty


def _pairs(values: npt.NDArray[np.int64], put_together: np.ufunc) -> npt.NDArray[np.int64]:
    """Each two neighbours as one; a last one without a neighbour stays as it is."""
    if len(values) % 2:
        values = np.append(values, values[-1])
    result: npt.NDArray[np.int64] = put_together(values[::2], values[1::2])
    return result
