# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures of `lcfs top` as characters: the ring, bars, sparklines. What they mean can be told without colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lcfs.commands.top_model import Segments

KINDS = ("free", "clean", "dirty", "ram", "open")
"""The later shows where one cell stands for several segments."""


class Characters(NamedTuple):
    """`levels` are the heights of a sparkline, from none to full."""

    levels: str
    dirty: str
    full: str
    empty: str
    cut: str


UNICODE = Characters(" ▁▂▃▄▅▆▇█", "░▒▓█", "█", "·", "…")
ASCII = Characters(" _.:-=+*#", "=%##", "#", ".", "~")

_SYMBOLS = {"free": ".", "clean": "-", "ram": "+", "open": "O"}


class Cell(NamedTuple):
    """A cell of the ring; `dirty`: percent of the lines of what it stands for."""

    kind: str
    dirty: int


def symbol(cell: Cell, characters: Characters) -> str:
    """What stands for it: dirty segments the darker, the more of their lines are dirty."""
    if cell.kind != "dirty":
        return _SYMBOLS.get(cell.kind, "?")
    return characters.dirty[min(3, max(0, cell.dirty - 1) // 25)]


def cells(segments: Segments, count: int) -> list[Cell]:
    """The ring in so many cells. One that stands for several slots is of the latest of KINDS among them."""
    ends: list[int] = []
    for run in segments.runs:
        ends.append((ends[-1] if ends else 0) + run.slots)
    slots = ends[-1] if ends else 0
    found: list[Cell] = []
    place = 0
    for number in range(count if slots else 0):
        begin = number * slots // count
        end = max(begin + 1, (number + 1) * slots // count)
        while ends[place] <= begin:
            place += 1
        kind, dirty, at, last = segments.runs[place].kind, 0, begin, place
        while at < end:
            run = segments.runs[last]
            kind = max(kind, run.kind, key=_rank)
            dirty += run.dirty * (min(end, ends[last]) - at)
            at = ends[last]
            last += 1
        found.append(Cell(kind, -(-dirty // (end - begin))))
    return found


def _rank(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def marks(segments: Segments, count: int) -> str:
    """A line of so many cells with T, F and C below the tail, the newest flushed and the current segment.

    Where two fall into one cell the later of them moves on to the next that is free.
    """
    line = [" "] * count
    for letter, segment_id in (("T", segments.tail), ("F", segments.flushed), ("C", segments.current)):
        if not segment_id or not segments.slots or not count:
            continue
        place = (segment_id - 1) % segments.slots * count // segments.slots
        free = [cell % count for cell in range(place, place + count) if line[cell % count] == " "]
        if free:
            line[free[0]] = letter
    return "".join(line)


def bar(share: float, width: int, ticks: Sequence[float], characters: Characters) -> str:
    """`share` of a line of `width` cells is full; at each of `ticks` stands a |."""
    filled = round(min(1.0, max(0.0, share)) * width)
    if share > 0:
        filled = max(1, filled)
    line = [characters.full] * filled + [characters.empty] * (width - filled)
    for tick in ticks:
        if width:
            line[min(width - 1, int(tick * width))] = "|"
    return "".join(line)


def sparkline(series: Sequence[float | None], width: int, height: int, characters: Characters) -> list[str]:
    """The last `width` values as columns, the newest to the right, in `height` lines from the top.

    The largest that is shown fills its column. Zero is the lowest line of a column, None is nothing at all.
    """
    shown = list(series)[-width:] if width > 0 else []
    largest = max((value for value in shown if value is not None), default=0.0)
    steps = len(characters.levels) - 1
    columns = [[0] * height] * (width - len(shown))
    for value in shown:
        if value is None:
            eighths = 0
        else:
            eighths = 1 + round((steps * height - 1) * value / largest) if largest else 1
        columns.append([max(0, min(steps, eighths - steps * row)) for row in range(height)])
    return ["".join(characters.levels[column[row]] for column in columns) for row in reversed(range(height))]


def largest(series: Sequence[float | None], width: int) -> float | None:
    """What a full column of a sparkline of that width stands for; None where nothing is shown."""
    return max((value for value in list(series)[-max(1, width) :] if value is not None), default=None)
