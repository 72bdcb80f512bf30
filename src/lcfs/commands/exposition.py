# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus' text format, as MNT/metrics has it, read back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """A line that is no comment."""

    name: str
    labels: dict[str, str]
    value: float


def samples(text: str) -> Iterator[Sample]:
    """The samples of a text, in its order. What is none is passed over."""
    for line in text.split("\n"):  # splitlines() would break at what a name may hold
        if line.startswith("#") or (match := _SAMPLE.fullmatch(line)) is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield Sample(match[1], {key: _unescape(label) for key, label in _LABEL.findall(match[2] or "")}, value)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text) if "\\" in text else text
