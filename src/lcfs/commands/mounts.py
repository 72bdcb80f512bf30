# SPDX-License-Identifier: GPL-2.0-or-later
"""What is mounted where: /proc/self/mountinfo, the loop devices on a tree, and taking a tree down."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from glob import glob
from typing import NamedTuple

from lcfs.commands.failure import CommandFailed

FS_TYPE = "fuse.lcfs"
ANSWER_PATIENCE = 5.0
"""Seconds a daemon is given to answer before others are told that it does not."""


class Mount(NamedTuple):
    """A line of mountinfo (proc(5)).

    `device` is `major:minor` of the superblock, which is unique on this machine while it is mounted; `owner` the
    uid that mounted it (0 where the file system does not say).
    """

    mountpoint: str
    device: str
    fs_type: str
    source: str
    owner: int


class Loop(NamedTuple):
    """A bound loop device (`/dev/loop0`) and the path it was bound to."""

    name: str
    backing: str


def all_mounts() -> list[Mount]:
    """Every mount this process sees, in the order of mounting."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        return [parse_mountinfo(line) for line in mountinfo]


def parse_mountinfo(line: str) -> Mount:
    """One line of mountinfo. Space, tab, newline and backslash stand there as octal escapes."""
    left, _, right = line.rstrip("\n").partition(" - ")
    fields = left.split(" ")
    fs_type, source, options = right.split(" ", 2)
    owner = re.search(r"(?:^|,)user_id=(\d+)", options)
    return Mount(_unescape(fields[4]), fields[2], fs_type, _unescape(source), int(owner[1]) if owner else 0)


def mount_at(mountpoint: str) -> Mount | None:
    """The mount on top at the absolute path `mountpoint`, None where it is none."""
    found = None
    for mount in all_mounts():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def lcfs_mounts() -> list[Mount]:
    """The mounted lcfs, one line for each: a bind mount of one does not count again."""
    by_device: dict[str, Mount] = {}
    for mount in all_mounts():
        if mount.fs_type == FS_TYPE:
            by_device.setdefault(mount.device, mount)
    return list(by_device.values())


def the_mount(mountpoint: str | None) -> Mount:
    """The lcfs at `mountpoint`, or the only one there is.

    Raises CommandFailed where there is none, or where several leave the choice open.
    """
    if mountpoint is not None:
        path = os.path.realpath(mountpoint)
        mount = mount_at(path)
        if mount is None or mount.fs_type != FS_TYPE:
            raise CommandFailed(f"{mountpoint} is not a mounted lcfs; see lcfs status for those that are")
        return mount
    mounts = lcfs_mounts()
    if not mounts:
        raise CommandFailed("no lcfs is mounted; mount one with: lcfs mount MNT --cache IMAGE")
    if len(mounts) > 1:
        listed = ", ".join(mount.mountpoint for mount in mounts)
        raise CommandFailed(f"several lcfs are mounted ({listed}); choose one with -m MNT")
    return mounts[0]


def is_dead(mountpoint: str) -> bool:
    """Whether the daemon behind this mount is gone. statfs(2) asks it; stat(2) may be answered by what is cached."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def require_answer(mountpoint: str) -> None:
    """Raise CommandFailed where the daemon behind this mount says nothing for ANSWER_PATIENCE seconds."""
    # a thread, since nothing ends a system call that waits for a FUSE daemon; this process can end beside it
    asking = threading.Thread(target=is_dead, args=(mountpoint,), daemon=True)
    asking.start()
    asking.join(ANSWER_PATIENCE)
    if asking.is_alive():
        raise CommandFailed(
            f"{mountpoint} has not answered for {ANSWER_PATIENCE:.0f} s: its daemon is stopped or hangs; look at its log"
        )


def loops_on(mountpoint: str) -> list[Loop]:
    """The loop devices bound to a file under `mountpoint` (sysfs, `loop/backing_file`)."""
    prefix = os.path.join(mountpoint, "")
    return sorted(loop for loop in _loops() if loop.backing.startswith(prefix))


def holders_of(mountpoint: str) -> str:
    """A clause naming what keeps the tree busy, for the end of a sentence."""
    loops = loops_on(mountpoint)
    if loops:
        names = " ".join(loop.name for loop in loops)
        return f"{names} still bound to it; unmount what is on it, then: losetup -d {names}"
    if processes := _processes_on(mountpoint):
        return f"in use by {', '.join(processes)}; end that, or leave the directory"
    return "somebody this user may not see uses it"


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Take the mount at `mountpoint` down: umount(8) for root, fusermount3(1) for others.

    Raises OSError EBUSY where it is in use (never when `lazy`), CommandFailed for any other reason.
    """
    if os.geteuid() == 0:
        command = ["umount", *(["--lazy"] if lazy else []), mountpoint]
    else:
        command = [fusermount(), "-u", *(["-z"] if lazy else []), mountpoint]
    in_english = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, env=in_english, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode == 0:
        return
    if "busy" in result.stderr:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)
    raise CommandFailed(f"{mountpoint} could not be unmounted: {result.stderr.strip() or command[0] + ' failed'}")


def fusermount() -> str:
    """The path of fusermount3. Raises CommandFailed when it is not installed."""
    found = shutil.which("fusermount3", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin")
    if found is None:
        raise CommandFailed("fusermount3 is not installed; install the package fuse3")
    return found


def _loops() -> Iterator[Loop]:
    for path in glob("/sys/block/loop*/loop/backing_file"):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as backing_file:
                backing = backing_file.read().removesuffix("\n")
        except OSError:
            continue  # unbound between the listing and the look
        yield Loop("/dev/" + path.split("/")[3], backing)


def _processes_on(mountpoint: str) -> list[str]:
    """`name (pid)` of the processes with an open file or a working directory there (proc(5)), as far as visible."""
    prefix = os.path.join(mountpoint, "")
    found = []
    for process in glob("/proc/[0-9]*"):
        for link in (f"{process}/cwd", *glob(f"{process}/fd/*")):
            try:
                target = os.readlink(link)
                if target == mountpoint or target.startswith(prefix):
                    with open(f"{process}/comm", errors="replace") as comm:
                        found.append(f"{comm.read().strip()} ({process[6:]})")
                    break
            except OSError:
                continue  # gone, or not ours to look at
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
