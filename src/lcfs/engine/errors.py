# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors, named for what one can do next.

Each carries an errno (what a system call returns), an exit code (what a command returns) and one
sentence: the value that was wrong and the remedy.
"""

from __future__ import annotations

import errno as _errno


class LcfsError(Exception):
    """One sentence for a person, an `errno` for a program, an `exit_code` for a script."""

    errno: int = _errno.EINVAL
    exit_code: int = 1

    def __init__(self, sentence: str, *, errno: int | None = None) -> None:
        super().__init__(sentence)
        if errno is not None:
            self.errno = errno


class Invalid(LcfsError):
    """Say it again with other words: the value is malformed or outside its range."""


class OutOfRange(LcfsError):
    """Say it again with a number that fits 64 bits."""

    errno = _errno.ERANGE


class NoSuchThing(LcfsError):
    """Name something that exists."""

    errno = _errno.ENOENT


class AlreadyThere(LcfsError):
    """Take another name, id or path: this one is taken."""

    errno = _errno.EEXIST


class InUse(LcfsError):
    """Release it first: somebody holds it."""

    errno = _errno.EBUSY


class NotPermitted(LcfsError):
    """Not something this tree allows."""

    errno = _errno.EPERM


class Unsuitable(LcfsError):
    """Give another file: this one is a directory, read-only, too small or of a wrong kind."""


class NoSpace(LcfsError):
    """Make room."""

    errno = _errno.ENOSPC


class Failed(LcfsError):
    """Look at the device underneath: it failed to read, write or flush."""

    errno = _errno.EIO


class Missing(LcfsError):
    """Bring the disk's backing back."""

    errno = _errno.ENODEV


class Cancelled(LcfsError):
    """Nothing changed: the operation was called off."""

    errno = _errno.ECANCELED


class NotACacheImage(LcfsError):
    """Give a cache image, or format this file if its content is not needed."""


class NewerVersion(LcfsError):
    """Use a newer lcfs: the image was written by one."""


class WrongDisk(LcfsError):
    """Give the disk the cache knows: UUID, size or stamp say this is another."""


class Damaged(LcfsError):
    """Run `lcfs check`: the image holds something a crash cannot explain."""

    errno = _errno.EUCLEAN
