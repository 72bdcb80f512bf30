# SPDX-License-Identifier: GPL-2.0-or-later
"""How others find the daemon of a mount and learn that it has ended: a locked file in /run.

Its name is the `major:minor` of the mounted superblock, which no other mount on the machine has. The daemon holds an
flock on it from before the tree is usable until the process ends, however it ends: a lock, unlike a pid, is never
somebody else's. A daemon that stopped cleanly removes the file, so a file without a lock tells of one that did not;
its second line says why, where the daemon could still say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from lcfs.commands.mounts import Mount


def directory(uid: int) -> str:
    """Where the run files of `uid`'s daemons are."""
    if uid == 0:
        return "/run/lcfs"
    if os.path.isdir(f"/run/user/{uid}"):
        return f"/run/user/{uid}/lcfs"
    return f"/tmp/lcfs-{uid}"


class RunFile:
    """The daemon's side. Lives as long as the process: the lock is let go by nothing but its end."""

    def __init__(self, device: str) -> None:
        """Make, lock and fill the file for the superblock `device`. Raises OSError."""
        home = directory(os.geteuid())
        os.makedirs(home, mode=0o755, exist_ok=True)
        status = os.lstat(home)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{home} belongs to somebody else")
        self._path = os.path.join(home, device)
        if os.path.lexists(self._path):
            os.unlink(self._path)  # of a daemon that was killed: device numbers are used again
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, b"%d\n" % os.getpid())

    def failed(self, sentence: str) -> None:
        """Leave the file behind with the reason why this was no clean stop."""
        os.write(self._fd, os.fsencode(sentence) + b"\n")

    def remove(self) -> None:
        """This was a clean stop."""
        os.unlink(self._path)


class Watch:
    """The other side: wait for a daemon's end. Open it before the unmount, which may end the daemon at once."""

    def __init__(self, mount: Mount) -> None:
        """`pid` is None when the mount has no run file, or its daemon is gone."""
        self.pid: int | None = None
        self._fd = -1
        try:
            self._fd = os.open(os.path.join(directory(mount.owner), mount.device), os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(self._fd).st_uid != mount.owner:
                return
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.pid = int(os.read(self._fd, 32).split()[0])
        except OSError:
            return

    def wait(self) -> str | None:
        """Return when the daemon has ended: None after a clean stop, else a sentence."""
        if self.pid is None:
            return None
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        if os.fstat(self._fd).st_nlink == 0:
            return None
        text = os.fsdecode(os.pread(self._fd, 65536, 0))
        return text.partition("\n")[2].strip() or f"the daemon (pid {self.pid}) ended without a clean stop; see its log"

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def forget(mount: Mount) -> None:
    """Remove what the killed daemon of a dead mount left."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory(mount.owner), mount.device))


def daemon_of(mount: Mount) -> int | None:
    """The pid of a mount's daemon; None when it is gone or left no run file."""
    watch = Watch(mount)
    watch.close()
    return watch.pid
