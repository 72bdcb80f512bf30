# SPDX-License-Identifier: GPL-2.0-or-later
"""Long work in the terminal: one line that moves, and Ctrl-C that calls the work off.

The tree's answer to a message comes when the work is done, and FUSE gives the daemon no word of an interrupted
system call. So the write is made from a thread, and calling it off is a message of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

INTERVAL = 0.1
"""Seconds between two looks at the progress."""

LOG_INTERVAL = 5.0
"""Seconds between two lines of a log."""

CANCEL_INTERVAL = 1.0
"""Seconds between two attempts to call the work off."""

T = TypeVar("T")


class ProgressLine:
    """A line on stderr: each `show` replaces it on a terminal, a log gets one now and then, anything else none."""

    def __init__(self) -> None:
        self.is_live = sys.stderr.isatty()
        self._shown = False
        self._is_log = not self.is_live and _is_log()
        self._next = time.monotonic() + LOG_INTERVAL

    @property
    def is_due(self) -> bool:
        """Whether a `show` now would be seen."""
        return self.is_live or (self._is_log and time.monotonic() >= self._next)

    def show(self, text: str) -> None:
        """Replace the line, or add one to the log when it is time."""
        if self._is_log and self.is_due:
            self._next = time.monotonic() + LOG_INTERVAL
            self._write(f"{text}\n")
        elif self.is_live:
            width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be taken back
            self._write(f"\r\x1b[K{text[:width]}")
            self._shown = True

    def clear(self) -> None:
        """Take the line away, so that ordinary output starts at the margin."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            sys.stderr.write(text)
            sys.stderr.flush()


def _is_log() -> bool:
    """Whether stderr is a file, or the journal, as systemd.exec(5) has it tell."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) or os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def run_interruptible(
    work: Callable[[], T], *, progress: Callable[[], str], cancel: Callable[[], None], late: bool = False
) -> T:
    """The result of `work()`, run in a thread while the progress line shows `progress()`.

    From the first SIGINT or SIGTERM on, `cancel()` is called until `work` ends, again and again because the first may
    reach the daemon before the work does. With `late`, a signal that came when the work was as good as done raises
    KeyboardInterrupt after it, for a caller who has more to do. What `work` raises or returns is this function's end
    too. Must run in the main thread.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            outcome.append(work())
        except BaseException as exc:
            failure.append(exc)
        finally:
            done.set()

    called_off = False
    again = 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal called_off
        called_off = True

    line = ProgressLine()
    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=run, name="message")
    try:
        thread.start()
        while not done.wait(INTERVAL):
            if called_off and time.monotonic() >= again:
                cancel()
                again = time.monotonic() + CANCEL_INTERVAL
            if line.is_due:
                line.show(progress())
    finally:
        thread.join()
        line.clear()
        for number, handler in former.items():
            signal.signal(number, handler)
    if failure:
        raise failure[0]
    if called_off and late:
        raise KeyboardInterrupt
    return outcome[0]
