# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel limits for a FUSE server, and how it treats one: raised where we may.

Nothing here is needed for correctness and nothing raises: a plain user gets what the system's administrator set.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os

log = logging.getLogger("lcfs.fuse_limits")

MAX_BACKGROUND = 4096
"""Asynchronous requests (direct AIO, readahead, a loop device with direct I/O) the kernel hands out at a time.

With the default of 12 for the whole mount, and 12 stuck behind a hung backing, no other disk would get one."""

KERNEL_DEFAULT = 12
"""FUSE_DEFAULT_MAX_BACKGROUND."""

CONNECTIONS = "/sys/fs/fuse/connections"
"""Where the file system `fusectl` is usually mounted."""

OOM_SCORE_ADJ = -900
"""As those have it that others depend on: nearly the last to be killed, but not exempt."""

_PR_SET_IO_FLUSHER = 57
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)


def raise_background_limits(connection: int) -> None:
    """Set max_background and congestion_threshold of the mount whose `st_dev` has the minor number `connection`.

    Call it after the first request was answered: the kernel sets both when the FUSE handshake ends.
    """
    try:
        directory = os.open(CONNECTIONS, os.O_PATH | os.O_CLOEXEC)
        if not os.access(f"{connection}", os.F_OK, dir_fd=directory):
            os.close(directory)
            directory = _private_fusectl()
    except OSError as exc:
        log.info("max_background stays at the kernel's default: fusectl is not to be had (%s)", exc)
        return
    try:
        for name in ("max_background", "congestion_threshold"):
            _raise_limit(f"{connection}/{name}", directory)
    except OSError as exc:
        log.info("%s stays at the kernel's default: %s", name, exc)
    finally:
        os.close(directory)


def _raise_limit(name: str, directory: int) -> None:
    """As far as MAX_BACKGROUND, or as the kernel lets a plain user: more is EINVAL (max_user_bgreq, by the size of RAM)."""
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        limit = MAX_BACKGROUND
        while True:
            try:
                os.write(file, b"%d" % limit)
                return
            except OSError as exc:
                if exc.errno != errno.EINVAL or limit <= KERNEL_DEFAULT:
                    raise
            limit //= 2
    finally:
        os.close(file)


def _private_fusectl() -> int:
    """A descriptor of `fusectl`'s root, mounted nowhere: nothing on the machine changes (Linux 5.2, root)."""
    context = _syscall(_SYS_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_SYS_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def become_io_flusher() -> None:
    """Tell the kernel that file systems and block devices depend on this process.

    PR_SET_IO_FLUSHER: memory that this process asks for is not to be got by writing to a disk it serves, which would
    wait for itself. Threads inherit it, so call this before the first is made. And the OOM killer is to look
    elsewhere first. Both need CAP_SYS_RESOURCE.
    """
    _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(f"{OOM_SCORE_ADJ}\n")


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
