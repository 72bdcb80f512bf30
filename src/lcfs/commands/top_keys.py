# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal of `lcfs top`: keys and signals in, whole screens out, and everything as it was in the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import NamedTuple, Protocol, TypeVar

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other screen, no cursor, no new line at the margin, empty."""
LEAVE = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
ESCAPE_PATIENCE = 0.05
"""Seconds after which an escape was the key itself and not the beginning of a sequence."""

SEQUENCES = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down"}
NAMES = {
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b" ": "space",
    b"\t": "c",
    b"\x03": "q",
    b"\x0c": "redraw",
}


class Selectable(Protocol):
    """What select(2) takes."""

    def fileno(self) -> int: ...


S = TypeVar("S", bound=Selectable)


class Events(NamedTuple):
    """What came: keys by name, signals, and whether the terminal has gone."""

    keys: list[str]
    signals: set[int]
    closed: bool


class Decoder:
    """Bytes of a terminal as names of keys: themselves, or those of SEQUENCES and NAMES."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def is_waiting(self) -> bool:
        """Whether more bytes may belong to what came last."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete."""
        data, self._rest = self._rest + data, b""
        keys: list[str] = []
        while data:
            length = _sequence_length(data) if data[:1] == b"\x1b" else 1
            if not length:
                self._rest = data
                break
            part, data = data[:length], data[length:]
            if length > 1:
                keys += [SEQUENCES[part]] if part in SEQUENCES else []
            elif part in NAMES:
                keys.append(NAMES[part])
            elif part.isascii() and part.decode().isprintable():
                keys.append(part.decode())
        return keys

    def escape(self) -> list[str]:
        """Nothing more has come."""
        was_escape, self._rest = self._rest == b"\x1b", b""
        return ["escape"] if was_escape else []


def _sequence_length(data: bytes) -> int:
    """Bytes of the escape sequence at the beginning; 0 while its end is not there (ECMA-48, 5.4)."""
    if len(data) < 2:
        return 0
    if data[1:2] == b"O":
        return 3 if len(data) > 2 else 0
    if data[1:2] != b"[":
        return 2
    for place, byte in enumerate(data[2:], 3):
        if not 0x20 <= byte <= 0x3F:
            return place
    return 0


class Terminal:
    """Two file descriptors of one terminal, which is ours from `with` to its end and not while we are stopped."""

    def __init__(self, keys: int, screen: int) -> None:
        self._keys = keys
        self._screen = screen
        self._decoder = Decoder()
        self._size = (0, 0)

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._keys)
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_end = wake
        self._handlers = {number: signal.signal(number, _only_wake) for number in CAUGHT}
        self._former_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            self._enter()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._leave()
        signal.set_wakeup_fd(self._former_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._wake_end)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines now; 80 by 24 where the terminal does not know."""
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self._screen)
            if columns and lines:
                return columns, lines
        return 80, 24

    def wait(self, others: Iterable[S], timeout: float) -> tuple[Events, list[S]]:
        """Until something comes, or so many seconds; and those of `others` that can be read."""
        others = list(others)
        if self._decoder.is_waiting:
            timeout = min(timeout, ESCAPE_PATIENCE)
        watched: list[int | S] = [self._keys, self._wake, *others]
        ready = select.select(watched, [], [], timeout)[0]
        signals: set[int] = set()
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                signals.update(os.read(self._wake, 4096))
        keys: list[str] = []
        closed = False
        if self._keys in ready:
            try:
                data = os.read(self._keys, 4096)
                closed = not data
                keys = self._decoder.feed(data)
            except OSError:
                closed = True
        elif self._decoder.is_waiting:
            keys = self._decoder.escape()
        return Events(keys, signals, closed), [other for other in others if other in ready]

    def draw(self, lines: list[str]) -> None:
        """A whole screen, line by line over the one before. Nothing while the terminal takes nothing (Ctrl-S)."""
        if not select.select([], [self._screen], [], 0)[1]:
            return
        size, self._size = self._size, self.size
        parts = ["\x1b[2J" if size != self._size else ""]
        parts += [f"\x1b[{number};1H{line}" for number, line in enumerate(lines, 1)]
        self._write("".join(parts).encode(errors="replace"))

    def stop(self) -> None:
        """What Ctrl-Z asks for; returns when we are to go on."""
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _only_wake)
        self._enter()

    def resume(self) -> None:
        """After a stop that nobody could see coming, the terminal may be as the shell has it."""
        self._enter()

    def _enter(self) -> None:
        attributes = termios.tcgetattr(self._keys)
        attributes[3] &= ~(termios.ICANON | termios.ECHO)
        attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keys, termios.TCSADRAIN, attributes)
        self._write(ENTER)
        self._size = (0, 0)

    def _leave(self) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal was closed
            self._write(LEAVE)
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._screen, data) :]


def _only_wake(number: int, frame: FrameType | None) -> None:
    """The number comes through the pipe."""
