# SPDX-License-Identifier: GPL-2.0-or-later
"""Going to the background: a fork before trio runs, and a pipe on which the daemon tells its parent how it goes.

    parent                               daemon (a session of its own)
    prints notes and progress     <--    "note", "progress"
    prints the reason, exits      <--    "failed", ends
    stats the mount point         <--    "mounted": standard streams are closed, requests are served from here on
    exits 0

The stat goes through the kernel to the daemon and back, so an exit code of 0 means that the tree answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol

from lcfs.commands.failure import MOUNT_FAILED, MOUNT_INTERRUPTED
from lcfs.commands.progress import ProgressLine

CALL_OFF = (signal.SIGINT, signal.SIGTERM)

CALLED_OFF = "called off; nothing is mounted"


class Reporter(Protocol):
    """Where a starting daemon says how it goes. Used from one thread."""

    def note(self, text: str) -> None:
        """A fact the person should know: something was created, a disk is missing."""

    def progress(self, text: str) -> None:
        """How far the start is."""

    def mounted(self) -> None:
        """Requests are about to be served."""

    def failed(self, sentence: str, exit_code: int) -> None:
        """The start, or later the stop, went wrong."""


class Terminal:
    """The reporter of a daemon that stays in the foreground: stderr, which may be closed one day."""

    def __init__(self) -> None:
        self._line = ProgressLine()

    def note(self, text: str) -> None:
        """Print it."""
        self._line.clear()
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Replace the progress line."""
        self._line.show(text)

    def mounted(self) -> None:
        """Take the progress line away."""
        self._line.clear()

    def failed(self, sentence: str, exit_code: int) -> None:
        """Print it."""
        self.note(f"lcfs mount: {sentence}")


class Pipe:
    """The reporter of a daemon in the background: JSON lines to the parent, until it is mounted."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def note(self, text: str) -> None:
        """Tell the parent."""
        self._send("note", text)

    def progress(self, text: str) -> None:
        """Tell the parent."""
        self._send("progress", text)

    def mounted(self) -> None:
        """Let go of the terminal, then tell the parent: who reads our stderr to its end must not wait for a daemon."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        self._send("mounted", None)
        os.close(self._fd)
        self._fd = -1

    def failed(self, sentence: str, exit_code: int) -> None:
        """Tell the parent, as long as it listens."""
        self._send("failed", [sentence, exit_code])

    def _send(self, kind: str, value: object) -> None:
        if self._fd >= 0:
            try:
                os.write(self._fd, json.dumps([kind, value]).encode() + b"\n")
            except BrokenPipeError:
                os.close(self._fd)  # the parent was killed; the daemon goes on without it
                self._fd = -1


def start(daemon: Callable[[Reporter], int], mountpoint: str) -> int:
    """Fork `daemon` off; the exit code of `lcfs mount` once the tree at `mountpoint` answers, or the daemon has ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, CALL_OFF)
    pid = os.fork()
    if pid == 0:
        os._exit(_be_daemon(daemon, writing, former))
    os.close(writing)
    parent = _Parent(pid)
    for number in CALL_OFF:
        signal.signal(number, parent.call_off)
    signal.pthread_sigmask(signal.SIG_SETMASK, former)
    return parent.follow(reading, mountpoint)


class _Parent:
    """The process a person sees: shows what the daemon says, passes Ctrl-C on, ends with the right code."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._terminal = Terminal()
        self._called_off = False

    def call_off(self, number: int, frame: FrameType | None) -> None:
        """The daemon is in a session of its own, where Ctrl-C does not reach it."""
        self._called_off = True
        os.kill(self._pid, signal.SIGTERM)

    def follow(self, fd: int, mountpoint: str) -> int:
        """Read the pipe to its end; the exit code."""
        failure: tuple[str, int] | None = None
        for kind, value in _messages(fd):
            if kind == "note":
                self._terminal.note(value)
            elif kind == "progress":
                self._terminal.progress(value)
            elif kind == "failed":
                failure = (value[0], value[1])
            elif kind == "mounted":
                self._terminal.mounted()
                failure = self._ask(mountpoint)
                if failure is None and not self._called_off:
                    return 0
        code = self._wait()
        if failure is None and (self._called_off or code == -signal.SIGTERM):
            failure = (CALLED_OFF, MOUNT_INTERRUPTED)
        elif failure is None:
            failure = (f"the daemon ended before the tree was up (exit code {code}); use -d to see why", MOUNT_FAILED)
        self._terminal.failed(*failure)
        return failure[1]

    def _ask(self, mountpoint: str) -> tuple[str, int] | None:
        """Whether the tree answers; from here on it is too late for Ctrl-C."""
        try:
            os.stat(os.path.join(mountpoint, "control"))
        except OSError as error:
            os.kill(self._pid, signal.SIGTERM)
            return f"{mountpoint} is mounted and does not answer: {error.strerror}", MOUNT_FAILED
        finally:
            for number in CALL_OFF:
                signal.signal(number, signal.SIG_IGN)
        return None

    def _wait(self) -> int:
        """The daemon's exit code. Until it has ended, its images are locked."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        for number in CALL_OFF:
            signal.signal(number, signal.SIG_IGN)  # there is no pid to pass it on to any more
        return code


def _be_daemon(daemon: Callable[[Reporter], int], writing: int, sigmask: set[int]) -> int:
    """In the child: nothing inherited stays open (a caller's lock file, a jobserver) but the standard streams."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, sigmask)
    os.chdir("/")
    os.dup2(writing, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    pipe = Pipe(3)
    os.set_inheritable(3, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        return daemon(pipe)
    except BaseException as exc:
        traceback.print_exc()
        pipe.failed(f"{type(exc).__name__}: {exc}", MOUNT_FAILED)
        return MOUNT_FAILED
    finally:
        sys.stderr.flush()


def _messages(fd: int) -> Iterator[tuple[str, Any]]:
    with open(fd, encoding="utf-8") as pipe:
        for line in pipe:
            kind, value = json.loads(line)
            yield kind, value
