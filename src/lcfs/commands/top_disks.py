# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks on the screen of `lcfs top`: a line for each."""

from __future__ import annotations

from typing import NamedTuple

from rich.text import Text

from lcfs.commands.counts import LINE
from lcfs.commands.rounds import short_size
from lcfs.commands.top_drawing import Characters
from lcfs.commands.top_model import DiskLook
from lcfs.commands.top_text import Row, clean, cut, cut_front, padded, state_text


class Column(NamedTuple):
    """`width` in cells; columns with the highest `importance` number go first where there is no room."""

    heading: str
    width: int
    right: bool
    importance: int


COLUMNS = (
    Column("id", 4, True, 0),
    Column("name", 10, False, 0),
    Column("state", 9, False, 0),
    Column("size", 5, True, 1),
    Column("dirty", 5, True, 0),
    Column("load", 9, True, 1),
    Column("cache", 5, True, 2),
    Column("loop", 12, False, 3),
    Column("errors", 6, True, 2),
)
LONGEST_NAME = 40


def disk_rows(
    disks: dict[int, DiskLook], shown: list[int], chosen: int | None, width: int, characters: Characters
) -> list[Row]:
    """A heading and a line for each of `shown`; below the chosen one what its state has to say."""
    if not disks:
        return [Row(3, Text(" no disks"))]
    columns = list(COLUMNS)
    while len(columns) > 2 and _width(columns) > width:
        columns.remove(max((column for column in columns if column.heading != "name"), key=lambda column: column.importance))
    left = max(0, width - _width(columns))
    name = next(column for column in columns if column.heading == "name")
    columns[columns.index(name)] = name._replace(width=min(LONGEST_NAME, name.width + left))
    left = max(0, width - _width(columns) - 2)
    heading = "".join(_cell(column.heading, column, characters) for column in columns)
    if left >= 10:
        heading += "  backing"
    rows = [Row(3, Text(" " + cut(heading.rstrip(), width - 1, characters), "bold"))]
    for id_ in shown:
        line = _line(disks[id_], columns, left, id_ == chosen, characters)
        line.truncate(width, overflow="crop")
        rows.append(Row(1 if id_ == chosen else 3, line))
        if id_ == chosen and len(disks[id_].state.split()) > 1:
            reason = cut(clean(disks[id_].state, characters), width - 6, characters)
            rows.append(Row(2, Text("     " + reason, state_text(disks[id_].state)[1])))
    if len(shown) < len(disks):
        rows.append(Row(6, Text(f" and {len(disks) - len(shown)} more disks")))
    return rows


def _width(columns: list[Column]) -> int:
    return 1 + sum(column.width + 1 for column in columns)


def _cell(text: str, column: Column, characters: Characters) -> str:
    return padded(text, column.width, characters, right=column.right) + " "


def _line(disk: DiskLook, columns: list[Column], left: int, is_chosen: bool, characters: Characters) -> Text:
    word, style = state_text(disk.state, disk.suspended)
    values = {
        "id": str(disk.id),
        "name": clean(disk.name, characters),
        "state": word,
        "size": short_size(disk.size),
        "dirty": short_size(disk.counts.dirty * LINE),
        "load": f"{disk.load}/{disk.threshold}%",
        "cache": str(disk.cache or "-"),
        "loop": ",".join(disk.loops) or "-",
        "errors": str(disk.counts.errors),
    }
    styles = {"state": style}
    if disk.load > disk.threshold:
        styles["load"] = "yellow"
    if disk.counts.errors:
        styles["errors"] = "bold red"
    line = Text(">" if is_chosen else " ")
    for column in columns:
        line.append(_cell(values[column.heading], column, characters), styles.get(column.heading, ""))
    if left >= 10:
        line.append(" " + cut_front(clean(disk.backing, characters), left, characters))
    if is_chosen:
        line.stylize("reverse", 0, 6)
    return line
