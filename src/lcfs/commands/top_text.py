# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of `lcfs top` that are as wide as they should be, whatever the names in them are."""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lcfs.commands.top_drawing import ASCII, Characters

LABEL = 11
"""Cells in front of what a line is about."""

STATES = {"running": "green", "suspended": "yellow", "degraded": "bold yellow", "failed": "bold red", "missing": "bold red"}


class Row(NamedTuple):
    """A line of the screen. Where there are too many, those of the highest `importance` number go first."""

    importance: int
    text: Text


def clean(text: str, characters: Characters) -> str:
    """Without what a terminal would obey or could not show."""
    return "".join(
        char if char.isprintable() and (char.isascii() or characters is not ASCII) else "?"  # lone surrogates are not printable
        for char in text
    )


def cut(text: str, width: int, characters: Characters) -> str:
    """At most `width` cells; where that is less than it has, the end is left out."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + characters.cut if width > 0 else ""


def cut_front(text: str, width: int, characters: Characters) -> str:
    """As `cut`, but the beginning is left out: the end of a path tells more."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > max(0, width - 1):
        text = text[1:]
    return characters.cut + text if width > 0 else ""


def padded(text: str, width: int, characters: Characters, *, right: bool = False) -> str:
    """Exactly `width` cells."""
    text = cut(text, width, characters)
    room = " " * (width - cell_len(text))
    return room + text if right else text + room


def label(text: str) -> tuple[str, str]:
    """The beginning of a line."""
    return f" {text:<{LABEL - 1}}"[:LABEL], "bold"


def apart(left: Text, right: Text, width: int) -> Text:
    """One at each margin; where there is no room for both the end of `left` is left out."""
    room = max(0, width - right.cell_len)
    left = left.copy()
    left.truncate(room, overflow="crop", pad=True)
    line = left + right
    line.truncate(width, overflow="crop")
    return line


def state_text(state: str, suspended: bool = False) -> tuple[str, str]:
    """The first word of a state, and its colour."""
    word = state.split()[0] if state.split() else "?"
    if suspended and word == "running":
        word = "suspended"
    return word, STATES.get(word, "")


def window(ids: list[int], chosen: int | None, room: int) -> list[int]:
    """At most `room` neighbours among `ids`, the chosen one among them."""
    if len(ids) <= room:
        return ids
    place = ids.index(chosen) if chosen in ids else 0
    begin = min(max(0, place - room // 2), len(ids) - room)
    return ids[begin : begin + room]
