# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.planted [NAME ...]`: plant every bug, one at a time, and print the table of what found it.

Ends with 0 when each was found, by what was expected, within its budget.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import attrs

from tests.planted.bugs import BUGS, Bug
from tests.planted.edit import planted
from tests.planted.finders import Finding


@attrs.frozen
class Row:
    """What became of one bug."""

    name: str
    what: str
    finder: str
    found: str
    good: bool
    seconds: float


def hunt(bug: Bug) -> Finding | None:
    """Plant it and look."""
    with planted(bug.edits):
        return bug.finder.look()


def row_of(name: str) -> Row:
    """One bug's row."""
    bug = next(bug for bug in BUGS if bug.name == name)
    began = time.process_time()
    finding = hunt(bug)
    seconds = time.process_time() - began
    if finding is None:
        return Row(bug.name, bug.what, bug.finder.name(), "not found", False, seconds)
    text = f"{finding.kind} after {finding.after} {bug.finder.unit}"
    return Row(bug.name, bug.what, bug.finder.name(), text, finding.kind in bug.expected, seconds)


def main(names: Sequence[str]) -> int:
    """The command."""
    wanted = [bug.name for bug in BUGS if not names or bug.name in names or bug.name.split()[0] in names]
    rows = [row_of(name) for name in wanted]
    print("| bug | planted | checker | found |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.what} | {row.finder} | {row.found} |")
    missed = [row.name for row in rows if not row.good]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} found, in {sum(row.seconds for row in rows):.0f} s of processor time")
    if missed:
        print(f"not found, or by something that was not expected: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
