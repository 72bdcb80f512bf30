# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal that a test types into and reads: a pseudo-terminal, and what `lcfs top` has drawn on its other screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0

_PART = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|\x1b[^\[]|([^\x1b]+)", re.DOTALL)


class Terminal:
    """`command` in a session of its own, whose terminal this is."""

    def __init__(self, command: list[str], *, columns: int = 80, lines: int = 24, **options: Any) -> None:
        self.master, self._slave = os.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._slave)
        self.child = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **options,
        )
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.output = ""
        """All that was written."""

    def resize(self, columns: int, lines: int) -> None:
        """What a window does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.size = columns, lines

    def type(self, keys: str) -> None:
        """As if from a keyboard."""
        os.write(self.master, keys.encode())

    def attributes(self) -> list[Any]:
        """termios now."""
        return termios.tcgetattr(self._slave)

    def read(self, patience: float = 0.05) -> None:
        """What comes within so many seconds."""
        deadline = time.monotonic() + patience
        while select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            self.output += self._decoder.decode(os.read(self.master, 65536))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Read until it holds; fails the test with the screen."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited in vain for {what}; the screen:\n{self.text}\nbehind all of:\n{self.output[-2000:]!r}")
            self.read()

    def shows(self, text: str) -> None:
        """Wait until it is on the screen."""
        self.wait(lambda: text in self.text, repr(text))

    def ended(self) -> int:
        """Wait for the command's end; its exit code."""
        self.wait(lambda: self.child.poll() is not None, "the end")
        self.read()
        return self.child.returncode

    def close(self) -> None:
        """End what is left."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.master)
        os.close(self._slave)

    @property
    def text(self) -> str:
        """What is on the screen: lines are written from their beginning, at a place, and nothing scrolls."""
        _columns, lines = self.size
        screen = dict.fromkeys(range(1, lines + 1), "")
        row = 1
        for private, numbers, final, written in _PART.findall(self.output):
            if written:
                screen[row] += written
            elif final == "H":
                row = min(int(numbers.split(";")[0] or 1), lines)
                screen[row] = ""
            elif final == "J" or (private and numbers == "1049"):
                screen = dict.fromkeys(range(1, lines + 1), "")
                row = 1
        return "\n".join(screen[number].rstrip() for number in sorted(screen))


def environment(source: Path) -> dict[str, str]:
    """One that every test has the same."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return kept | {"PYTHONPATH": str(source), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
