# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans: dirty lines that lie close together on a slow backing become one read and one write.

A span is read from the backing, the lines are laid over it, and it is written back: two requests instead of many, for
the price of moving the bytes between the lines twice. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from lcfs.engine.extents import Extent, Lines
from lcfs.engine.geometry import LINE

SPAN = 1 << 20
"""No span crosses a multiple of this many bytes, unless neighbours in it do."""


@attrs.frozen
class Span:
    """Extents in ascending order that are written together."""

    start: int
    end: int
    extents: Sequence[Extent]
    dirty: int
    """Bytes of the extents."""
    rewritten: bool
    """Whether the bytes between them are read and written back; else each extent is a write of its own."""

    def lay_over(self, data: memoryview) -> None:
        """Put the extents over `data`, which is what the backing holds from `start` to `end`."""
        for offset, buffers in self.extents:
            at = offset - self.start
            for buffer in buffers:
                data[at : at + len(buffer)] = buffer
                at += len(buffer)


def spans(extents: Sequence[Extent], price: int) -> Iterator[Span]:
    """Ascending extents as spans, no two of them in the same line, where a request costs as much as moving `price` bytes."""
    group: list[Extent] = []
    start = end = 0
    for extent in extents:
        offset = extent[0]
        # a span is read and written in whole lines: two that shared one would each write back what the other replaced
        is_apart = offset // LINE > (end - 1) // LINE
        if group and is_apart and (2 * (offset - end) > price or offset // SPAN != start // SPAN):
            yield _span(start, end, group, price)
            group = []
        if not group:
            start = offset
        group.append(extent)
        end = offset + sum(map(len, extent[1]))
    if group:
        yield _span(start, end, group, price)


def _span(start: int, end: int, extents: Sequence[Extent], price: int) -> Span:
    dirty = sum(len(buffer) for _, buffers in extents for buffer in buffers)
    apart = len(extents) * price + dirty
    together = 2 * price + 2 * (end - start)
    return Span(start, end, extents, dirty, together < apart)


def near(candidates: Lines, wanted: Lines, price: int) -> npt.NDArray[np.bool_]:
    """Which of the lines `candidates` may share a span with one of the lines `wanted` (ascending, not empty).

    These are in the same SPAN bytes of the disk, and no further away than a request costs.
    """
    reach = price // 2 // LINE + 1
    per_span = SPAN // LINE
    after = np.minimum(np.searchsorted(wanted, candidates), len(wanted) - 1)
    before = np.maximum(after - 1, 0)
    result = np.zeros(len(candidates), bool)
    for side in (before, after):
        neighbour = wanted[side]
        result |= (np.abs(neighbour - candidates) <= reach) & (neighbour // per_span == candidates // per_span)
    return result
