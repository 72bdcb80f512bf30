# SPDX-License-Identifier: GPL-2.0-or-later
"""The witness: a file outside the mount in which a writer says what it is about to do, and that it was done.

Of each operation there is a line before it and one after it, both written with one write(2). The machine lives on when
the daemon is killed, so what is in the file happened; an operation without its second line may have happened.

An acknowledgement counts when it came before the kill. A later one is what the kernel says of a dead disk, and that is
not always an error: ext4's fsync may return 0 for a transaction whose commit failed while it looked away.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import attrs

Operation = dict[str, Any]


class Witness:
    """The writer's side."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def intend(self, operation: Operation) -> None:
        """About to do it."""
        os.write(self._file, json.dumps(operation).encode() + b"\n")

    def acknowledge(self) -> None:
        """Its commit returned."""
        os.write(self._file, b"ack %d\n" % time.monotonic_ns())

    def close(self) -> None:
        """No more to come."""
        os.close(self._file)


@attrs.frozen
class Statement:
    """What a witness says after the kill."""

    acknowledged: list[Operation]
    """In their order."""
    undecided: list[Operation]
    """Those after them, begun and not acknowledged before the kill: each may have happened or not."""


def nr_acknowledged(path: Path) -> int:
    """Commits that a writer has witnessed so far."""
    return path.read_bytes().count(b"\nack ") if path.exists() else 0


def statement_of(path: Path, killed_at: int) -> Statement:
    """Read a witness whose writer has ended; `killed_at` is in nanoseconds of the monotonic clock.

    One that never got to its first operation left nothing.
    """
    acknowledged: list[Operation] = []
    undecided: list[Operation] = []
    in_flight = False
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("ack "):
            assert in_flight, f"{path}: acknowledged twice"
            in_flight = False
            if int(line.removeprefix("ack ")) <= killed_at:
                acknowledged.append(undecided.pop())
        else:
            assert not in_flight, f"{path}: went on without an acknowledgement"
            in_flight = True
            undecided.append(json.loads(line))
    return Statement(acknowledged, undecided)
