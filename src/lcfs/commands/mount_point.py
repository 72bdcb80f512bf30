# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a directory may be mounted on, and the clearing away of a dead mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from lcfs.commands.failure import MOUNT_FAILED, CommandFailed
from lcfs.commands.mounts import FS_TYPE, is_dead, loops_on, mount_at, unmount
from lcfs.commands.run_file import forget


def prepare(path: str, *, nonempty: bool, note: Callable[[str], None]) -> str:
    """The canonical path of a mount point that may be used.

    A dead lcfs there is unmounted first, which `note` is told. Raises CommandFailed with MOUNT_FAILED.
    """
    mountpoint = os.path.realpath(path)
    try:
        _clear_dead(mountpoint, note)
        _check(path, mountpoint, nonempty=nonempty)
    except CommandFailed as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None
    return mountpoint


def require_outside(mountpoint: str, path: str) -> None:
    """Refuse an image or backing that the mount itself would cover. Raises CommandFailed."""
    if os.path.commonpath([mountpoint, os.path.realpath(path)]) == mountpoint:
        raise CommandFailed(
            f"{path} lies under the mount point {mountpoint}, which would hide it; move it, or mount elsewhere",
            MOUNT_FAILED,
        )


def _clear_dead(mountpoint: str, note: Callable[[str], None]) -> None:
    while is_dead(mountpoint):
        mount = mount_at(mountpoint)
        if mount is None or mount.fs_type != FS_TYPE:
            what = mount.fs_type if mount else "file system"
            raise CommandFailed(f"{mountpoint} is under a dead {what} mount; unmount that first")
        loops = " ".join(loop.name for loop in loops_on(mountpoint))
        unmount(mountpoint, lazy=True)
        forget(mount)
        bound = f"; {loops} still bound to it, only errors come from there now: losetup -d {loops}" if loops else ""
        note(f"took away the dead mount at {mountpoint}, its daemon was gone{bound}")


def _check(path: str, mountpoint: str, *, nonempty: bool) -> None:
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError:
        raise CommandFailed(f"mount point {path} does not exist; create it with: mkdir -p {path}") from None
    except OSError as error:
        raise CommandFailed(f"mount point {path} cannot be used: {error.strerror}; correct the path") from None
    if not stat.S_ISDIR(status.st_mode):
        raise CommandFailed(f"mount point {path} is not a directory; give an empty directory")
    if nonempty:
        return
    mount = mount_at(mountpoint)
    if mount is not None and mount.fs_type == FS_TYPE:
        raise CommandFailed(f"{path} is a mounted lcfs already; unmount it with: lcfs umount {path}")
    if mount is not None:
        raise CommandFailed(f"{path} is a mount point already ({mount.fs_type}); unmount it, or use -o nonempty")
    try:
        with os.scandir(mountpoint) as entries:
            occupied = next(entries, None)
    except OSError as error:
        raise CommandFailed(f"mount point {path} cannot be read: {error.strerror}") from None
    if occupied is not None:
        raise CommandFailed(f"mount point {path} is not empty (it has {occupied.name}); empty it, or use -o nonempty")
