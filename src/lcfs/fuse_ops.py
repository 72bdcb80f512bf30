# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree as pyfuse3 operations: inodes, handles and errnos <-> devices and control nodes. A translation only.

`read` and `write` of a disk are the hot path: when the engine can serve one without waiting, nothing in it is awaited,
created or logged, and all that watches it is a countdown to the next one that is timed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, RequestContext, SetattrFields, StatvfsData

from lcfs.engine import Buffer, Device, LcfsError, NoSuchThing, NotPermitted
from lcfs.engine.geometry import LINE
from lcfs.engine.latency import BARRIER, READ, SAMPLED, WRITE, random_gaps
from lcfs.sysfs_tree import ControlFile, ControlHandle, Directory, DiskFile, Link, Node, TextFile, TextHandle, Tree

log = logging.getLogger("lcfs.fuse_ops")

ENTRY_TIMEOUT = 0.0
"""Seconds for which the kernel may take a name for granted: a disk or cache that went away is gone with the next
open. Opening a file of the tree is rare, what is done with an open disk is not."""

ATTR_TIMEOUT = 1.0
"""Seconds for which the kernel may take a size for granted."""

ROOT_ATTR_TIMEOUT = 3600.0
"""Nothing about the root changes by itself, and looking at the mount point should not depend on this process."""

BUG_LOG_INTERVAL = 1.0
"""Seconds between two tracebacks: a bug in the hot path must not fill the disk with its log."""

P = ParamSpec("P")
R = TypeVar("R")


def _answered(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """A handler whose every failure is an errno: pyfuse3 ends the mount for any other exception."""

    @functools.wraps(handler)
    async def answered(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except Exception as exc:
            raise self.refusal(exc) from None

    return answered


class _SyncedDevice:
    """A disk opened with O_SYNC or O_DSYNC: each write is durable before it is answered.

    The kernel follows such a write with an fsync, but not when it is asynchronous direct I/O.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.read_nowait = device.read_nowait
        self.read = device.read
        self.flush = device.flush
        self.latency = device.latency
        self.read_source = device.read_source
        self.barrier_source = device.barrier_source
        self.write_source = device.barrier_source  # no sooner than that is it answered

    def write_nowait(self, offset: int, data: bytes) -> int:
        return -1

    async def write(self, offset: int, data: bytes) -> int:
        count = await self._device.write(offset, data)
        await self._device.flush()
        return count


class Operations(pyfuse3.Operations):
    """The handlers of one mount of `tree`; every file belongs to `uid` and `gid`.

    `writeback_cache` lets the kernel keep written pages. It is off unless asked for: the kernel would acknowledge
    writes in one order and hand them over in another, so that what a crash leaves is no prefix of what was
    acknowledged (promise R3), and an open with O_TRUNC, which a block device ignores, would drop pages that were
    never handed over. With it on, such an open is refused.

    Extended attributes and access(2) are left to pyfuse3's ENOSYS on purpose. The kernel then stops asking; else it
    asks for `security.capability` before every buffered write.

    Requests of the disks are timed for `Device.latency`: each that has to wait, from when that is known; and of those
    that are answered at once the last of as many as `gaps` gives next, which stands for SAMPLED. `clock` gives
    nanoseconds. It is not trio's, which costs three times as much, and for a test that owns trio's clock stands still
    while a request does not wait.
    """

    supports_dot_lookup = False

    def __init__(
        self,
        tree: Tree,
        *,
        uid: int | None = None,
        gid: int | None = None,
        writeback_cache: bool = False,
        clock: Callable[[], int] = time.perf_counter_ns,
        gaps: Iterator[int] | None = None,
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = writeback_cache
        self._tree = tree
        self._uid = os.getuid() if uid is None else uid
        self._gid = os.getgid() if gid is None else gid
        self._mounted_at = time.time_ns()
        self._handle_numbers = itertools.count(1)
        self._disks: dict[int, Device | _SyncedDevice] = {}
        self._texts: dict[int, TextHandle | ControlHandle] = {}
        self._opened: dict[int, Node] = {}
        """Handle -> node, which stays what it was for those who have it open when the tree has it no more."""
        self._control_aliases: dict[int, ControlFile] = {}
        self._control_writers: dict[int, int] = {}
        """Handle -> inode number under which control is open for writing."""
        self._sent_elsewhere: tuple[int, int] | None = None
        """Caller and inode number of the last open that was told to look control up again."""
        self._clock = clock
        self._gaps = random_gaps() if gaps is None else gaps
        self._untimed = next(self._gaps)
        """Requests to the next one that is timed, that one included."""
        self._last_bug = float("-inf")
        self._bugs_unlogged = 0

    # Disks and texts: the hot path

    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]  # any buffer will do
        device = self._disks.get(fh)
        try:
            if device is None:
                return self._texts[fh].read(off, size)
            self._untimed -= 1
            data = device.read_nowait(off, size) if self._untimed else self._timed_read_nowait(device, off, size)
            return await self._waiting_read(device, off, size) if data is None else data
        except Exception as exc:
            raise self.refusal(exc) from None

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        device = self._disks.get(fh)
        try:
            if device is None:
                return await self._texts[fh].write(buf)
            self._untimed -= 1
            count = device.write_nowait(off, buf) if self._untimed else self._timed_write_nowait(device, off, buf)
            return await self._waiting_write(device, off, buf) if count < 0 else count
        except Exception as exc:
            raise self.refusal(exc) from None

    @_answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        """The barrier. A text has nothing to make durable: its store was finished when its write returned."""
        device = self._disks.get(fh)
        if device is not None:
            began, source = self._clock(), device.barrier_source()
            try:
                await device.flush()
            finally:
                device.latency.add(BARRIER, source, self._clock() - began)

    async def flush(self, fh: int) -> None:
        """close(2) is no barrier."""

    # What is timed. Of those that wait, what fails took its time as well

    def _timed_read_nowait(self, device: Device | _SyncedDevice, off: int, size: int) -> Buffer | None:
        self._untimed = next(self._gaps)
        source = device.read_source(off, size)
        began = self._clock()
        data = device.read_nowait(off, size)
        if data is not None:
            device.latency.add(READ, source, self._clock() - began, SAMPLED)
        return data

    def _timed_write_nowait(self, device: Device | _SyncedDevice, off: int, buf: bytes) -> int:
        self._untimed = next(self._gaps)
        source = device.write_source()
        began = self._clock()
        count = device.write_nowait(off, buf)
        if count >= 0:
            device.latency.add(WRITE, source, self._clock() - began, SAMPLED)
        return count

    async def _waiting_read(self, device: Device | _SyncedDevice, off: int, size: int) -> Buffer:
        began, source = self._clock(), device.read_source(off, size)
        try:
            return await device.read(off, size)
        finally:
            device.latency.add(READ, source, self._clock() - began)

    async def _waiting_write(self, device: Device | _SyncedDevice, off: int, buf: bytes) -> int:
        began, source = self._clock(), device.write_source()
        try:
            return await device.write(off, buf)
        finally:
            device.latency.add(WRITE, source, self._clock() - began)

    @_answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        fh = next(self._handle_numbers)
        if isinstance(node, DiskFile):
            if flags & os.O_TRUNC and self.enable_writeback_cache:
                raise NotPermitted("with writeback_cache a disk cannot be opened with O_TRUNC; open it without")
            self._disks[fh] = _SyncedDevice(node.device) if flags & os.O_DSYNC else node.device
            self._opened[fh] = node
            node.device.users += 1
            return FileInfo(fh=fh, keep_cache=True)
        if isinstance(node, TextFile):
            if writing and node.store is None:
                raise PermissionError(errno.EACCES, "read-only attribute")
            self._texts[fh] = node.open()
        elif isinstance(node, ControlFile):
            if writing:
                self._claim_control(inode, ctx.pid)
                self._control_writers[fh] = inode
            self._texts[fh] = node.open()
        else:
            raise IsADirectoryError(errno.EISDIR, "a directory is not read")
        self._opened[fh] = node
        return FileInfo(fh=fh, direct_io=True, keep_cache=False)

    async def release(self, fh: int) -> None:
        node = self._opened.pop(fh)
        if isinstance(node, DiskFile):
            node.device.users -= 1
        for handles in (self._disks, self._texts, self._control_writers):
            handles.pop(fh, None)

    # Names

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._tree.entries(self._directory(parent_inode)).get(name.decode(errors="surrogateescape"))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such name")
        if isinstance(node, ControlFile) and node.ino in self._control_writers.values():
            return self._attributes(node, self._control_alias(node))
        return self._attributes(node)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, _ in inode_list:
            self._control_aliases.pop(ino, None)

    def _control_alias(self, control: ControlFile) -> int:
        """One more inode number for `control`, for one opener.

        The kernel lets only one write(2) at a time into an inode, and a message may take hours: a second one, such
        as the `cancel` that ends the first, has to come through another inode. An alias is looked up once and is
        forgotten with its only reference.
        """
        ino = self._tree.new_ino()
        self._control_aliases[ino] = control
        return ino

    def _claim_control(self, ino: int, pid: int) -> None:
        """See that nobody else has `ino` open for writing.

        Two that looked it up at the same moment have the same number. For ESTALE the kernel looks the second one's up
        again, which gives an alias. Where it cannot (a path such as /proc/self/fd/3) it asks for the same number once
        more, and has to share it.
        """
        if ino in self._control_writers.values() and self._sent_elsewhere != (pid, ino):
            self._sent_elsewhere = (pid, ino)
            raise NoSuchThing("control is open under this inode number", errno=errno.ESTALE)

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def releasedir(self, fh: int) -> None:
        pass

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    @_answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """`start_id` is the inode number of the entry before: numbers only grow, so what comes and goes meanwhile
        makes nothing else appear twice or be left out."""
        entries = self._tree.entries(self._directory(fh))
        for name, node in sorted(entries.items(), key=lambda entry: entry[1].ino):
            if node.ino <= start_id:
                continue
            if not pyfuse3.readdir_reply(token, name.encode(), self._attributes(node), node.ino):
                return

    @_answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        node = self._node(inode)
        if not isinstance(node, Link):
            raise OSError(errno.EINVAL, "not a link")
        return os.fsencode(node.target)

    # Attributes of nodes

    @_answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._node(inode), inode)

    @_answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """chmod and chown last as long as the node; the kernel lets only the owner and root so far."""
        node = self._node(inode)
        if fields.update_size and attr.st_size != node.size:
            raise NotPermitted(f"{node.size} bytes is its size; it cannot be truncated to {attr.st_size}")
        if fields.update_mode:
            node.mode = attr.st_mode & 0o777
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        return self._attributes(node, inode)

    @_answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        bytes_, nodes = self._tree.size()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = LINE
        data.f_blocks = -(-bytes_ // LINE)
        data.f_files = nodes
        data.f_namemax = 255
        return data

    # What the tree refuses

    async def create(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def mknod(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def mkdir(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def unlink(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def rmdir(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def rename(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def symlink(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    async def link(self, *args: Any) -> NoReturn:
        raise FUSEError(errno.EPERM)

    # What the kernel remembers

    def forget_size(self, device: Device) -> None:
        """Have the kernel ask for the size of a disk again before it next goes by it.

        Of attributes alone it is told without waiting: no request of the disk is held up by this, and none holds it up.
        """
        for node in self._tree.nodes.values():
            if isinstance(node, DiskFile) and node.device is device:
                with contextlib.suppress(OSError):  # the kernel does not know it
                    pyfuse3.invalidate_inode(InodeT(node.ino), attr_only=True)

    # Translation

    def refusal(self, exc: Exception) -> FUSEError:
        """The one place where an exception becomes an errno."""
        if isinstance(exc, FUSEError):
            return exc
        if isinstance(exc, LcfsError | OSError):
            number = exc.errno or errno.EIO
            # ENOSYS would tell the kernel never to ask again (an fsync, say); beyond 511 it takes no answer at all.
            return FUSEError(number if 0 < number < 512 and number != errno.ENOSYS else errno.EIO)
        now = time.monotonic()
        if now - self._last_bug < BUG_LOG_INTERVAL:
            self._bugs_unlogged += 1
        else:
            log.error("a request failed for a bug of lcfs (%d more unlogged)", self._bugs_unlogged, exc_info=exc)
            self._last_bug, self._bugs_unlogged = now, 0
        return FUSEError(errno.EIO)

    def _node(self, ino: int) -> Node:
        if ino in self._control_aliases:
            return self._control_aliases[ino]
        if ino not in self._tree.nodes:
            for node in self._opened.values():
                if node.ino == ino:
                    return node
        return self._tree.node(ino)

    def _directory(self, ino: int) -> Directory:
        node = self._node(ino)
        if not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        return node

    def _attributes(self, node: Node, ino: int | None = None) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = node.ino if ino is None else ino
        entry.entry_timeout = ENTRY_TIMEOUT
        entry.attr_timeout = ROOT_ATTR_TIMEOUT if node is self._tree.root else ATTR_TIMEOUT
        entry.st_mode = node.type | node.mode
        entry.st_uid = self._uid if node.uid is None else node.uid
        entry.st_gid = self._gid if node.gid is None else node.gid
        entry.st_size = node.size
        entry.st_blksize = LINE
        if isinstance(node, DiskFile):
            entry.st_blocks = node.size // 512
        elif isinstance(node, Directory):
            entry.st_nlink = 2 + sum(isinstance(child, Directory) for child in self._tree.entries(node).values())
        # Constant: to the kernel a new mtime means that somebody else wrote, and it drops the disk's pages.
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._mounted_at
        return entry
