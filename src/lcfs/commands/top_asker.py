# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that asks the mount for `lcfs top`, so that no answer is ever waited for where keys are read.

A system call that waits for a FUSE daemon cannot be given up once the daemon has taken the request, and a process one
of whose threads is in such a call does not end. So it is a process of its own, which the other can leave behind.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
from types import TracebackType
from typing import NamedTuple, NoReturn

from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import Mount, is_dead, mount_at
from lcfs.commands.top_model import Look, look

PATIENCE = 0.5
"""Seconds that the process is given to end by itself."""


class Store(NamedTuple):
    """An attribute to be written."""

    value: str
    parts: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"{'/'.join(map(str, self.parts))} = {self.value}"


class Refused(NamedTuple):
    """The tree's sentence why not."""

    sentence: str


class Failed(NamedTuple):
    """There is no going on."""

    sentence: str
    exit_code: int


Answer = Look | Store | Refused | Failed
"""A Store that comes back is done."""


class Asker:
    """One question at a time; `select` tells by its fileno when the answer is there."""

    def __init__(self, mount: Mount) -> None:
        jobs, self._jobs = os.pipe()
        answers_in, answers = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _child(mount, jobs, answers)
        os.close(jobs)
        os.close(answers)
        self._answers = os.fdopen(answers_in, "rb")
        self.asked: Store | None = None
        """What it is at."""
        self.is_busy = False

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._jobs)
        self._answers.close()
        if not self._has_ended(PATIENCE):
            os.kill(self._pid, signal.SIGKILL)
            self._has_ended(PATIENCE)

    def fileno(self) -> int:
        """Readable when there is an answer."""
        return self._answers.fileno()

    def ask(self, store: Store | None = None) -> None:
        """Have something stored, or a look taken."""
        self.asked = store
        self.is_busy = True
        with contextlib.suppress(BrokenPipeError):  # `answer` tells
            os.write(self._jobs, pickle.dumps(store))

    def answer(self) -> Answer:
        """Waits for it."""
        self.is_busy = False
        try:
            found: Answer = pickle.load(self._answers)
        except EOFError:
            return Failed("the process that asks the mount was ended from outside; start lcfs top again", 1)
        return found

    def _has_ended(self, patience: float) -> bool:
        fd = os.pidfd_open(self._pid)
        try:
            if not select.select([fd], [], [], patience)[0]:
                return False
            os.waitpid(self._pid, 0)
            return True
        finally:
            os.close(fd)


def _child(mount: Mount, jobs: int, answers: int) -> NoReturn:
    """Answers until there are no more questions. Has nothing open that anybody could wait for to be closed."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTSTP):  # the terminal sends them to all, and the other one acts
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        low, high = sorted((jobs, answers))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(3, low)
        os.closerange(low + 1, high)
        os.closerange(high + 1, os.sysconf("SC_OPEN_MAX"))
        with os.fdopen(jobs, "rb") as questions, os.fdopen(answers, "wb") as out:
            while True:
                store: Store | None = pickle.load(questions)
                pickle.dump(_answer(mount, store), out)
                out.flush()
    except (EOFError, BrokenPipeError):
        code = 0
    finally:
        os._exit(code)


def _answer(mount: Mount, store: Store | None) -> Answer:
    tree = Tree(mount.mountpoint)
    try:
        _require(mount)
        if store is None:
            return look(tree)
        tree.store(store.value, *store.parts)
        return store
    except MessageRefused as refused:
        return Refused(str(refused))
    except CommandFailed as failed:
        first = failed
    try:
        _require(mount)  # whether that was because it went away
    except CommandFailed as failed:
        first = failed
    return Failed(str(first), first.exit_code)


def _require(mount: Mount) -> None:
    """Raise CommandFailed, with exit code 0, where the mount is gone."""
    where = mount.mountpoint
    now = mount_at(where)
    if now is None or now.device != mount.device:
        raise CommandFailed(f"{where} is not mounted any more", 0)
    if is_dead(where):
        raise CommandFailed(f"{where}: its daemon is gone; the next lcfs mount there cleans up, and so does: lcfs umount", 0)
