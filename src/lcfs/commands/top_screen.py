# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of `lcfs top`: what there is to show, as lines that fit the terminal."""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.text import Text

from lcfs.commands import top_cache, top_disks
from lcfs.commands.top_drawing import UNICODE, Characters
from lcfs.commands.top_model import History, Look
from lcfs.commands.top_text import Row, apart, clean, cut, cut_front, window

KEYS = (
    ("q", "quit", "quit; so does Ctrl-C"),
    ("?", "help", "this list, and back"),
    ("\u2191\u2193", "disk", "choose a disk"),
    ("c", "cache", "the next cache in full"),
    ("m", "force", "force_migrate of the cache on or off: write back whatever the load"),
    ("a", "allow", "allow_migrate on or off, while update_interval is 0"),
    ("f", "flush", "flush_current_buffer: put what is in RAM on the image"),
    ("s", "suspend", "hold the requests of the disk, after a question, or let them go"),
    ("t", "limit", "migrate_threshold of the disk: percent of load above which it rests"),
    ("space", "pause", "look no more, or again"),
    ("+ -", "interval", "look less often, more often"),
)
SILENT_AFTER = 2.0
"""Seconds without an answer after which the screen says so."""
FEWEST_DISKS = 4
"""Disks, and caches in a line, that are shown before the charts are."""


class View(NamedTuple):
    """Everything the screen depends on. `now` is a time of day, `silent` how many seconds the mount has owed an answer."""

    mountpoint: str
    look: Look | None
    history: History
    now: float
    interval: float
    cache_id: int | None = None
    disk_id: int | None = None
    silent: float = 0.0
    paused: bool = False
    message: str = ""
    question: str = ""
    helping: bool = False


def screen(view: View, width: int, height: int, characters: Characters = UNICODE) -> list[Text]:
    """At most `height` lines of at most `width` cells, the last of them for messages and keys."""
    bottom = _bottom(view, width, characters)
    rows = [Row(0, _header(view, width, characters))]
    if view.helping:
        rows += _help(width, characters)
    elif view.look is not None:
        rows += _body(view, view.look, width, height - 1 - len(bottom), characters)
    lines = [row.text for row in fitted(rows, max(0, height - len(bottom)))]
    lines += [Text()] * (height - len(lines) - len(bottom))
    return [*lines, *bottom][:height]


def frame(view: View, width: int, characters: Characters = UNICODE) -> list[Text]:
    """The same for paper: every cache in full, every disk, no keys."""
    rows = [_header(view, width, characters)]
    if view.look is not None:
        for cache in view.look.caches.values():
            rows += [row.text for row in top_cache.in_full(cache, view.history, width, None, characters)]
            rows.append(Text())
        rows += [row.text for row in top_disks.disk_rows(view.look.disks, list(view.look.disks), None, width, characters)]
    return rows


def fitted(rows: list[Row], height: int) -> list[Row]:
    """Without the least important, the last of them first."""
    rows = list(rows)
    while len(rows) > height:
        place = max(range(len(rows)), key=lambda number: (rows[number].importance, number))
        del rows[place]
    return rows


def _body(view: View, look: Look, width: int, height: int, characters: Characters) -> list[Row]:
    chosen = look.caches.get(view.cache_id or 0)
    others = [id_ for id_ in look.caches if chosen is None or id_ != chosen.id]
    listed = window(others, None, max(FEWEST_DISKS, height // 6))
    disks = window(list(look.disks), view.disk_id, max(FEWEST_DISKS, height // 4, height - len(listed) - 18))
    rows: list[Row] = []
    below = top_disks.disk_rows(look.disks, disks, view.disk_id, width, characters)
    if chosen is not None:
        room = height - len(listed) - len(below) - 1 - bool(listed)
        rows += top_cache.in_full(chosen, view.history, width, room, characters)
    if listed:
        rows.append(Row(8, Text()))
        rows += [Row(3, top_cache.in_a_line(look.caches[id_], view.history, width, characters)) for id_ in listed]
    if len(listed) < len(others):
        rows.append(Row(6, Text(f" and {len(others) - len(listed)} more caches")))
    return [*rows, Row(8, Text()), *below]


def _header(view: View, width: int, characters: Characters) -> Text:
    right = Text(f"  {view.interval:g} s  {time.strftime('%H:%M:%S', time.localtime(view.now))} ")
    if view.paused:
        right = Text("  paused", "bold yellow") + right
    if view.silent >= SILENT_AFTER:
        since = time.strftime("%H:%M:%S", time.localtime(view.now - view.silent))
        right = Text(f"  no answer since {since} ", "bold red")
    left = Text.assemble((" lcfs top ", "bold"), " ")
    up = f"  up {_duration(view.now - view.look.since)}" if view.look is not None else ""
    room = max(0, width - left.cell_len - right.cell_len - len(up))
    left.append(cut_front(clean(view.mountpoint, characters), room, characters) + up)
    return apart(left, right, width)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hours}:{minutes:02}:{seconds:02}"


def _bottom(view: View, width: int, characters: Characters) -> list[Text]:
    if view.question:
        return [Text(cut(" " + clean(view.question, characters), width, characters), "bold reverse")]
    keys = Text()
    for key, what, _ in KEYS:
        item = Text.assemble(" ", (_named(key, characters), "bold"), f" {what} ")
        if keys.cell_len + item.cell_len <= width:
            keys += item
    if not view.message:
        return [keys]
    return [Text(cut(" " + clean(view.message, characters), width, characters), "bold yellow"), keys]


def _help(width: int, characters: Characters) -> list[Row]:
    rows = [Row(8, Text())]
    for key, _, about in KEYS:
        about = cut(about, max(0, width - 10), characters)
        rows.append(Row(1, Text.assemble((f" {_named(key, characters):<9}", "bold"), about)))
    return rows


def _named(key: str, characters: Characters) -> str:
    return key if characters is UNICODE or key.isascii() else "up/down"
