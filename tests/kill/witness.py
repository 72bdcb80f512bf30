# SPDX-License-Identifier: GPL-2.0-or-later
"""The witness: a file outside the mount in which a writer says what it is about to do, and that it was done.

Of each operation there is a line before it and one after it, both written with one write(2). The machine lives on when
the daemon is killed, so what is in the file happened; an operation without its second line may have happened.
"""

from __future__ import annotations

import json
import os
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
        os.write(self._file, b"ack\n")

    def close(self) -> None:
        """No more to come."""
        os.close(self._file)


@attrs.frozen
class Statement:
    """What a witness says after the kill."""

    acknowledged: list[Operation]
    """In their order."""
    in_flight: Operation | None
    """Begun and not acknowledged: it may have happened or not, and nothing came after it."""


def nr_acknowledged(path: Path) -> int:
    """Commits that a writer has witnessed so far."""
    return path.read_bytes().count(b"\nack\n") if path.exists() else 0


def statement_of(path: Path) -> Statement:
    """Read a witness whose writer has ended. One that never got to its first operation left nothing."""
    acknowledged: list[Operation] = []
    in_flight: Operation | None = None
    for line in path.read_text().splitlines() if path.exists() else []:
        if line == "ack":
            assert in_flight is not None, f"{path}: acknowledged twice"
            acknowledged.append(in_flight)
            in_flight = None
        else:
            assert in_flight is None, f"{path}: went on without an acknowledgement"
            in_flight = json.loads(line)
    return Statement(acknowledged, in_flight)
