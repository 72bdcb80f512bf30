# SPDX-License-Identifier: GPL-2.0-or-later
"""Listings as text for a person and as JSON for a program (as util-linux does it: one plural key, an array)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_json(plural: str, rows: Sequence[dict[str, Any]]) -> None:
    """`{"<plural>": [...]}` on stdout; keys are lower case, byte counts numbers, the unknown is null."""
    json.dump({plural: rows}, sys.stdout, indent=3)
    sys.stdout.write("\n")


def print_table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, numbers to the right."""
    cells = [list(heading), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heading))]
    right = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(heading))]
    for line in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(line, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())
