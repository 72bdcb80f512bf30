# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache on the screen of `lcfs top`: in full, or in a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from rich.text import Text

from lcfs.commands.counts import LINE
from lcfs.commands.latency import OPS, short_time
from lcfs.commands.rounds import short_percent, short_size
from lcfs.commands.top_drawing import Characters, bar, cells, largest, marks, sparkline, symbol
from lcfs.commands.top_model import HIGH_WATERMARK, LOW_WATERMARK, CacheLook, History
from lcfs.commands.top_text import LABEL, Row, apart, clean, cut, cut_front, label, state_text

RING = {"free": "bright_black", "clean": "green", "dirty": "yellow", "ram": "magenta", "open": "bold cyan"}
NAMES = (("free", "free"), ("clean", "clean"), ("dirty", "dirty"), ("ram", "in RAM"), ("open", "open"))
WIDE = 120
"""Columns from which on throughput and latency stand side by side."""
MOST_RING_LINES = 8
MOST_CHART_LINES = 4

RATES = (
    ("read", "read_bytes_per_second", "green"),
    ("write", "write_bytes_per_second", "cyan"),
    ("migrated", "migrated_bytes_per_second", "yellow"),
)
VALUE = 8
HIGHEST = 10
QUANTILE = 10


def in_full(cache: CacheLook, history: History, width: int, height: int | None, characters: Characters) -> list[Row]:
    """All there is about it. Pictures are the taller the more of `height` is left."""
    ring_lines, chart_lines = _sizes(cache, width, height)
    rows = [Row(1, _title(cache, width, characters))]
    if len(cache.state.split()) > 1 and cache.state != "running":
        rows.append(Row(1, Text(" " + cut(clean(cache.state, characters), width - 1, characters), "bold yellow")))
    rows.append(Row(2, _migration(cache, width, characters)))
    rows += _ring(cache, width, ring_lines, characters)
    rows += [Row(7, line) for line in _legend(cache, width, characters)]
    rows += [
        Row(2, _log(cache, width, characters)),
        Row(2, _dirty(cache, width, characters)),
        Row(3, _hits(cache, history, width)),
    ]
    wide = width >= WIDE
    half = width // 2 if wide else width
    rates = [_rate(cache, history, row, half, chart_lines, characters) for row in RATES]
    latencies = [_latency(cache, history, op, width - half if wide else width, chart_lines, characters) for op in OPS]
    if wide:
        for left, right in zip(rates, latencies, strict=True):
            rows += [Row(4, one + other) for one, other in zip(left, right, strict=True)]
    else:
        for number, lines in enumerate([*rates, *latencies]):
            rows += [Row(4 if number < 2 else 5 if number == 2 else 6, line) for line in lines]
    return rows


def in_a_line(cache: CacheLook, history: History, width: int, characters: Characters) -> Text:
    """What matters, for a cache that is not the chosen one."""
    now = history.latest(cache.id)
    word, style = state_text(cache.state)
    line = Text.assemble((f" cache {cache.id:<4}", "bold"), (f"{word:<10}", style))
    line.append(f"dirty {_share(cache.counts.dirty, cache.counts.lines):<7}")
    for name, key, _ in RATES[:2]:
        line.append(f"{name} {short_size(now[key]) + '/s' if now else '-':<9}")
    line.append(clean(cache.migration, characters))
    line.truncate(width, overflow="crop")
    return line


def _sizes(cache: CacheLook, width: int, height: int | None) -> tuple[int, int]:
    """Lines of the ring, and of each chart, that fit; a line of the ring has one of marks below it."""
    ring = chart = 1
    most = min(MOST_RING_LINES, math.ceil(cache.segments.slots / max(1, width - LABEL - 1)))
    per_chart = 3 if width >= WIDE else 6
    left = (height or 0) - 10 - per_chart
    while True:
        if chart < MOST_CHART_LINES and chart <= ring + 1 and left >= per_chart:
            chart, left = chart + 1, left - per_chart
        elif ring < most and left >= 2:
            ring, left = ring + 1, left - 2
        elif chart < MOST_CHART_LINES and left >= per_chart:
            chart, left = chart + 1, left - per_chart
        else:
            return ring, chart


def _title(cache: CacheLook, width: int, characters: Characters) -> Text:
    word, style = state_text(cache.state)
    right = Text.assemble(f"  {short_size(cache.counts.lines * LINE)}  ", (word, style), " ")
    image = cut_front(clean(cache.image, characters), max(0, width - right.cell_len - LABEL), characters)
    return apart(Text.assemble((f" cache {cache.id} ".ljust(LABEL), "bold"), image), right, width)


def _migration(cache: CacheLook, width: int, characters: Characters) -> Text:
    switches = []
    if cache.force_migrate:
        switches.append("force_migrate 1")
    if not cache.update_interval:
        switches.append(f"allow_migrate {cache.allow_migrate}")
    right = Text("  " + ", ".join(switches) + " " if switches else "", "magenta")
    text = cut(clean(cache.migration, characters), max(0, width - right.cell_len - LABEL), characters)
    style = "yellow" if cache.migration.startswith("waiting") else ""
    return apart(Text.assemble(label("migration"), (text, style)), right, width)


def _ring(cache: CacheLook, width: int, lines: int, characters: Characters) -> list[Row]:
    strip = max(1, width - LABEL - 1)
    found = cells(cache.segments, strip * lines)
    below = marks(cache.segments, strip * lines)
    rows = []
    for line in range(lines):
        text = Text.assemble(label("ring" if not line else ""))
        for cell in found[line * strip : (line + 1) * strip]:
            text.append(symbol(cell, characters), RING.get(cell.kind, ""))
        rows.append(Row(1 if not line else 8, text))
        under = Text(" " * LABEL + below[line * strip : (line + 1) * strip].rstrip(), "bold")
        if line == 0 or under.plain.strip():
            rows.append(Row(2 if not line else 8, under))
    return rows


def _legend(cache: CacheLook, width: int, characters: Characters) -> list[Text]:
    signs = {"free": ".", "clean": "-", "dirty": characters.dirty, "ram": "+", "open": "O"}
    kinds = Text(" " * LABEL)
    for kind, name in NAMES:
        kinds.append("".join(dict.fromkeys(signs[kind])), RING[kind])
        kinds.append(f" {name}  ")
    segments = cache.segments
    ids = Text(f"T tail {segments.tail}  F flushed {segments.flushed or '-'}  C current {segments.current or '-'}")
    if kinds.cell_len + ids.cell_len <= width:
        return [kinds + ids]
    lines = [kinds, Text(" " * LABEL) + ids]
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines


def _log(cache: CacheLook, width: int, characters: Characters) -> Text:
    segments = cache.segments
    share = segments.in_use / max(1, segments.slots)
    style = "red" if share > HIGH_WATERMARK else "yellow" if share > LOW_WATERMARK else "green"
    words = f"  {segments.in_use} of {segments.slots} segments in use, watermarks "
    words += f"{100 * LOW_WATERMARK:.0f} and {100 * HIGH_WATERMARK:.0f} %" if cache.update_interval else "off"
    ticks = (LOW_WATERMARK, HIGH_WATERMARK) if cache.update_interval else ()
    return _with_bar("log", share, ticks, style, words, width, characters)


def _dirty(cache: CacheLook, width: int, characters: Characters) -> Text:
    share = cache.counts.dirty / max(1, cache.counts.lines)
    words = f"  {100 * share:.1f} % of the lines, {short_size(cache.counts.dirty * LINE)} not on a backing yet"
    return _with_bar("dirty", share, (), "yellow", words, width, characters)


def _with_bar(
    name: str, share: float, ticks: Sequence[float], style: str, words: str, width: int, characters: Characters
) -> Text:
    room = max(8, (width - LABEL) // 4)
    line = Text.assemble(label(name), (bar(share, room, ticks, characters), style), words)
    line.truncate(width, overflow="crop")
    return line


def _hits(cache: CacheLook, history: History, width: int) -> Text:
    now = history.latest(cache.id)
    line = Text.assemble(
        label("hits"),
        f"read {short_percent(now.get('read_hit_percent')):<6}write {short_percent(now.get('write_hit_percent')):<6}",
        f"flushes {now.get('flushes_per_second', 0):.0f}/s",
    )
    if cache.crc_errors or cache.read_errors:
        line.append(f"  {cache.crc_errors} lines damaged, {cache.read_errors} reads of the image failed", "bold red")
    line.truncate(width, overflow="crop")
    return line


def _rate(
    cache: CacheLook, history: History, row: tuple[str, str, str], width: int, height: int, characters: Characters
) -> list[Text]:
    name, key, style = row
    series, now = history.series(cache.id, key), history.latest(cache.id)
    room = max(0, width - LABEL - VALUE - HIGHEST)
    top = largest(series, room)
    head = Text.assemble(label(name), f"{short_size(now[key]) + '/s' if now else '-':>{VALUE - 1}} ")
    tail = f" {'max ' + short_size(top) if top else '':<{HIGHEST - 1}}"
    lines = []
    for number, drawn in enumerate(sparkline(series, room, height, characters)):
        front = head if not number else Text(" " * (LABEL + VALUE))
        lines.append(front + Text(drawn, style) + Text(tail if not number else " " * HIGHEST))
    return [_fitted(line, width) for line in lines]


def _latency(cache: CacheLook, history: History, op: str, width: int, height: int, characters: Characters) -> list[Text]:
    room = max(0, (width - LABEL - 2 * QUANTILE - 1) // 2)
    now = history.latest(cache.id)
    halves = []
    for percent, style in ((50, "green"), (99, "red")):
        key = f"{op}_p{percent}_seconds"
        head = f"p{percent} {short_time(now.get(key)):>5} "
        drawn = sparkline(history.series(cache.id, key), room, height, characters)
        halves.append([Text(head if not number else " " * QUANTILE) + Text(line, style) for number, line in enumerate(drawn)])
    lines = []
    for number, (left, right) in enumerate(zip_longest(*halves, fillvalue=Text())):
        front = Text.assemble(label(f"{op}s" if not number else ""))
        lines.append(_fitted(front + left + Text(" ") + right, width))
    return lines


def _fitted(line: Text, width: int) -> Text:
    line.truncate(width, overflow="crop", pad=True)
    return line


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"
