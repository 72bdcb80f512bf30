# SPDX-License-Identifier: GPL-2.0-or-later
"""MNT/control and the attributes, as a verb uses them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator
from errno import EACCES, EPERM
from types import TracebackType

from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import the_mount

TUNABLES = (
    "allow_migrate",
    "force_migrate",
    "nr_max_batched_migration",
    "barrier_deadline_ms",
    "flush_current_buffer_interval",
    "commit_super_block_interval",
    "update_interval",
)
"""Of a cache. Said again because importing the engine takes 0.2 s; a test compares them."""


class MessageRefused(CommandFailed):
    """The tree refused; `errno` is what write(2) returned."""

    def __init__(self, sentence: str, errno: int) -> None:
        super().__init__(sentence)
        self.errno = errno


class Tree:
    """The tree of one mounted lcfs, at the absolute path `mountpoint`."""

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = mountpoint

    @classmethod
    def chosen(cls, mountpoint: str | None) -> Tree:
        """The tree that `-m` names, or the only one. Raises CommandFailed."""
        return cls(the_mount(mountpoint).mountpoint)

    def path(self, *parts: str | int) -> str:
        """The absolute path of a node."""
        return os.path.join(self.mountpoint, *map(str, parts))

    def ids(self, kind: str) -> list[int]:
        """The ids in `caches` or `block`, ascending."""
        try:
            return sorted(int(name) for name in os.listdir(self.path(kind)) if name.isdecimal())
        except OSError as error:
            raise _unreadable(self.path(kind), error) from None

    def read(self, *parts: str | int) -> str:
        """An attribute's text without its newline."""
        try:
            with open(self.path(*parts), encoding="utf-8", errors="surrogateescape", newline="\n") as attribute:
                return attribute.read().removesuffix("\n")
        except OSError as error:
            raise _unreadable(self.path(*parts), error) from None

    def store(self, value: str, *parts: str | int) -> None:
        """Write an attribute. Raises MessageRefused with the reason, which a fresh open of control tells."""
        try:
            fd = os.open(self.path(*parts), os.O_WRONLY)
            try:
                os.write(fd, os.fsencode(value) + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            reason = self.read("control") or f"{self.path(*parts)}: {error.strerror}"
            raise MessageRefused(reason, error.errno or 0) from None

    def require(self, kind: str, id_: int) -> None:
        """Raise CommandFailed unless `caches/<id_>` or `block/<id_>` is there."""
        if id_ not in (known := self.ids(kind)):
            word = "cache" if kind == "caches" else "disk"
            listed = ", ".join(map(str, known)) or "none"
            raise CommandFailed(f"{self.mountpoint} has no {word} {id_}; it has: {listed}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other command lines out: `switch_to` moves the one cursor that all of them share.

        The lock is on the tree's root, because `control` is another inode for each that has it open.
        """
        fd = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def control(self) -> Control:
        """A fresh open of `control`."""
        return Control(self.path("control"))

    def send(self, *words: str | int) -> str:
        """One message on a fresh open of `control`; its answer."""
        with self.control() as control:
            return control.send(*words)


class Control:
    """An open `control`: write one line, read the answer back."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise _unreadable(path, error) from None

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)

    def send(self, *words: str | int) -> str:
        """The answer to a message of these words, which are quoted as a shell would.

        Returns when the work is done. Raises MessageRefused.
        """
        line = " ".join(shlex.quote(str(word)) for word in words)
        try:
            os.write(self._fd, os.fsencode(line) + b"\n")
        except OSError as error:
            sentence = self._answer() or f"{self._path}: {line}: {error.strerror}"
            raise MessageRefused(sentence, error.errno or 0) from None
        return self._answer()

    def _answer(self) -> str:
        answer = b""
        while part := os.read(self._fd, 65536):
            answer += part
        return os.fsdecode(answer).removesuffix("\n")


def _unreadable(path: str, error: OSError) -> CommandFailed:
    remedy = "see lcfs status, or mount it again"
    if error.errno in (EACCES, EPERM):
        remedy = "be the user who mounted it, or mount it with -o allow_other"
    return CommandFailed(f"{path} cannot be used: {error.strerror}; {remedy}")
