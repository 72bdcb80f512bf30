# SPDX-License-Identifier: GPL-2.0-or-later
"""A figure as SVG: one panel per load, one bar per contestant, a line from the lowest to the highest round."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from benchmarks.figure import Figure, Spread

WIDTH = 860
LABEL = 170
VALUE = 150
BAR = 14
STEP = 20
PANEL_HEAD = 26
MARGIN = 14
COLOURS = {"lcfs": "#c0392b"}
FLOOR, OTHER = "#b8bfc6", "#5b7fa6"

LOG_FROM = 30.0
"""Where the largest value of a panel is so many times the smallest, its axis is logarithmic."""


def draw(figure: Figure) -> str:
    """The SVG document."""
    body: list[str] = []
    y = MARGIN + 20.0
    body.append(_text(MARGIN, y, figure.title, size=15, weight="bold"))
    for load, unit in figure.units.items():
        rows = [(name, spread) for name in figure.samples if (spread := figure.spread(name, load)) is not None]
        y = _panel(body, y + PANEL_HEAD, load, unit, rows)
    height = y + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="sans-serif" role="img" aria-label="{escape(figure.title)}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _panel(body: list[str], y: float, load: str, unit: str, rows: list[tuple[str, Spread]]) -> float:
    highest = max((spread.high for _, spread in rows), default=0.0) or 1.0
    lowest = min((spread.median for _, spread in rows if spread.median > 0), default=highest)
    is_log = highest / lowest >= LOG_FROM
    room = WIDTH - LABEL - VALUE - 2 * MARGIN

    def x(value: float) -> float:
        if not is_log:
            return LABEL + MARGIN + room * value / highest
        start = lowest / 2
        return LABEL + MARGIN + room * max(0.0, math.log(max(value, start) / start) / math.log(highest / start))

    axis = f"{unit}, logarithmic" if is_log else unit
    body.append(_text(MARGIN, y, f"{load}  ({axis})", size=12, weight="bold"))
    y += 8
    for name, spread in rows:
        colour = COLOURS.get(name, FLOOR if name.startswith("floor") else OTHER)
        left, end = LABEL + MARGIN, x(spread.median)
        middle = y + BAR / 2
        body.append(_text(LABEL + MARGIN - 6, middle + 4, name, anchor="end"))
        body.append(f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(end - left, 1):.1f}" height="{BAR}" fill="{colour}"/>')
        body.append(f'<path d="M{x(spread.low):.1f} {middle:.1f}H{x(spread.high):.1f}" stroke="#222222" stroke-width="1.5"/>')
        body.append(_text(WIDTH - MARGIN, middle + 4, quantity(spread.median), anchor="end"))
        y += STEP
    return y


def _text(x: float, y: float, text: str, *, size: int = 11, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="#222222">{escape(text)}</text>'
    )


def quantity(value: float) -> str:
    """A number with three significant digits or so."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"
