# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs mount --all` and `lcfs umount --all`: each mount of the tab file, past those that fail."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable

from lcfs.commands.failure import MOUNT_FAILED, MOUNT_INTERRUPTED, MOUNT_SOME, CommandFailed
from lcfs.commands.mounts import FS_TYPE, is_dead, mount_at
from lcfs.commands.tab import Entry, read_tab


def mount_all(tab: str, mount: Callable[[Entry], int]) -> int:
    """`mount` each entry that is `auto` and not mounted yet; the exit code of mount(8) for `-a`."""
    entries = [entry for entry in read_tab(tab) if entry.auto and not is_mounted(entry)]
    return _each("mount", entries, lambda entry: _in_a_child(entry, mount))


def umount_all(tab: str, umount: Callable[[Entry], int]) -> int:
    """`umount` each entry that is mounted, the last first, its dead ones too; the exit code."""
    entries = [entry for entry in reversed(read_tab(tab)) if _lcfs_at(entry)]
    return _each("umount", entries, umount)


def is_mounted(entry: Entry) -> bool:
    """Whether a living lcfs is where the entry would be mounted."""
    return _lcfs_at(entry) and not is_dead(os.path.realpath(entry.mountpoint))


def _lcfs_at(entry: Entry) -> bool:
    mount = mount_at(os.path.realpath(entry.mountpoint))
    return mount is not None and mount.fs_type == FS_TYPE


def _each(verb: str, entries: Iterable[Entry], do: Callable[[Entry], int]) -> int:
    succeeded = failed = 0
    for entry in entries:
        try:
            code = do(entry)
        except CommandFailed as failure:
            print(f"lcfs {verb}: {entry.name}: {failure}", file=sys.stderr)
            code = failure.exit_code
        if code == MOUNT_INTERRUPTED:
            return code
        succeeded += code == 0
        failed += code != 0
    if not failed:
        return 0
    return MOUNT_SOME if succeeded else MOUNT_FAILED


def _in_a_child(entry: Entry, mount: Callable[[Entry], int]) -> int:
    """The code of one mount. In a process of its own, because it keeps its parent's signals from then on.

    Ctrl-C is the child's, who calls the start off and says so with its code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = MOUNT_FAILED
        try:
            code = mount(entry)
        except CommandFailed as failure:
            print(f"lcfs mount: {entry.name}: {failure}", file=sys.stderr)
        except KeyboardInterrupt:
            code = MOUNT_INTERRUPTED
        finally:
            sys.stderr.flush()
            os._exit(code)
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.signal(signal.SIGINT, former)
