# SPDX-License-Identifier: GPL-2.0-or-later
"""Block stores on files and block devices.

Reads are first tried in the page cache, in place (`RWF_NOWAIT`); everything that may wait runs in a
worker thread, a batch of system calls per hop and no other work. A thread that hangs is abandoned when
its task is cancelled, so a dead disk never holds up shutdown.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar, TypeVarTuple
from uuid import UUID

import trio

from lcfs.engine.block_store import BlockStore, Buffer, Fill, FlushFailed, Label, Place, Storage
from lcfs.engine.errors import AlreadyThere, InUse, NoSpace, NoSuchThing, NotPermitted, Unsuitable

LABEL_UUID = "user.lcfs.uuid"
LABEL_STAMP = "user.lcfs.stamp"
IOV_MAX = 1024
THREADS_PER_STORE = 16
_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")
_NO_ATTRIBUTE = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


class _Descriptor:
    """A file descriptor that is closed when nobody refers to it any more.

    A worker thread that was left behind refers to it too, so its number never comes to mean another file under
    the thread's hands.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.flushing = threading.Lock()
        self.unreported: OSError | None = None
        """The error of a flush whose caller did not wait for it; the kernel tells it only once, so the next one gets it."""

    def __del__(self) -> None:
        os.close(self.fd)


def _pread_exactly(file: _Descriptor, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(file.fd, [buffer[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset + done}, in the middle of a read")
        done += count


def _pread_all(file: _Descriptor, extents: Sequence[tuple[int, memoryview]]) -> None:
    for offset, buffer in extents:
        _pread_exactly(file, buffer, offset)


def _pwrite_all(file: _Descriptor, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
    for offset, buffers in extents:
        for first in range(0, len(buffers), IOV_MAX):
            rest = [memoryview(part) for part in buffers[first : first + IOV_MAX]]
            while rest:
                count = os.pwritev(file.fd, rest, offset)
                offset += count
                while rest and count >= len(rest[0]):
                    count -= len(rest.pop(0))
                if rest and count:
                    rest[0] = rest[0][count:]


def _flush(file: _Descriptor) -> None:
    with file.flushing:
        if file.unreported is not None:
            raise file.unreported
        try:
            os.fdatasync(file.fd)
        except OSError as exc:
            file.unreported = exc
            raise


def _write_durably(file: _Descriptor, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
    _pwrite_all(file, extents)
    try:
        _flush(file)
    except OSError as exc:
        raise FlushFailed(exc.errno, exc.strerror or str(exc)) from exc


def _open_direct(file: _Descriptor) -> _Descriptor:
    try:
        return _Descriptor(os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return file


def _nr_blocks(file: _Descriptor) -> int:
    return os.fstat(file.fd).st_blocks


def _length(file: _Descriptor) -> int:
    """Bytes of a regular file or a block device; where the descriptor stands means nothing here."""
    return os.lseek(file.fd, 0, os.SEEK_END)


def _grow(file: _Descriptor, is_block: bool, size: int | None) -> int:
    if size is not None and not is_block and _length(file) < size:
        os.ftruncate(file.fd, size)
    os.fsync(file.fd)
    return _length(file)


def _read_label(file: _Descriptor) -> Label | None:
    try:
        uuid = UUID(os.getxattr(file.fd, LABEL_UUID).decode("ascii"))
        (stamp,) = struct.unpack("<Q", bytes.fromhex(os.getxattr(file.fd, LABEL_STAMP).decode("ascii")))
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTE:
            return None
        raise
    except (ValueError, struct.error):
        return None
    return Label(uuid, stamp)


def _write_label(file: _Descriptor, label: Label) -> None:
    try:
        os.setxattr(file.fd, LABEL_STAMP, struct.pack("<Q", label.stamp).hex().encode("ascii"))
        os.setxattr(file.fd, LABEL_UUID, str(label.uuid).encode("ascii"))
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTE:
            return
        raise
    os.fsync(file.fd)


class FileStore(BlockStore):
    """An open and locked regular file or block device."""

    def __init__(self, path: str, fd: int, size: int, mode: int) -> None:
        self.name = path
        self.size = size
        self._file: _Descriptor | None = _Descriptor(fd)
        self._is_block = stat.S_ISBLK(mode)
        self._nowait = True
        status = os.fstat(fd)
        number = status.st_rdev if self._is_block else status.st_dev
        self._identity = number if self._is_block else (status.st_dev, status.st_ino)
        self._device_number = f"{os.major(number)}:{os.minor(number)}"
        self._limiter = trio.CapacityLimiter(THREADS_PER_STORE)
        self._direct: _Descriptor | None = None

    @property
    def _open_file(self) -> _Descriptor:
        if self._file is None:
            raise OSError(errno.EBADF, f"{self.name} is closed")
        return self._file

    async def _in_thread(self, call: Callable[[_Descriptor, *_Args], _T], *args: *_Args) -> _T:
        return await trio.to_thread.run_sync(call, self._open_file, *args, abandon_on_cancel=True, limiter=self._limiter)

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        """From the page cache with `preadv2(RWF_NOWAIT)`; False where that would block."""
        if not self._nowait or self._file is None:
            return False
        try:
            return os.preadv(self._file.fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                self._nowait = False
            return False

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        """One `preadv` in a thread."""
        await self._in_thread(_pread_exactly, buffer, offset)

    async def readinto_extents(self, extents: Sequence[tuple[int, memoryview]]) -> None:
        """A `preadv` per extent, all in one thread hop."""
        await self._in_thread(_pread_all, extents)

    async def readinto_uncached(self, offset: int, buffer: memoryview) -> None:
        """With O_DIRECT, on a descriptor of its own; through the page cache where the file system has no such thing."""
        if self._direct is None:
            self._direct = await self._in_thread(_open_direct)
        try:
            await trio.to_thread.run_sync(
                _pread_exactly, self._direct, buffer, offset, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # coarser blocks than 4 KiB
            self._direct = self._open_file
            await self.readinto(offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """One `pwritev` in a thread."""
        await self.write_extents([(offset, buffers)])

    async def write_extents(self, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        """A `pwritev` per extent, all in one thread hop."""
        await self._in_thread(_pwrite_all, extents)

    async def flush(self) -> None:
        """`fdatasync(2)`. One descriptor serves the store, so an error is reported once: callers flush one at a time."""
        try:
            await self._in_thread(_flush)
        except OSError:
            if self._file is not None:
                self._file.unreported = None
            raise

    async def write_durably(self, extents: Sequence[tuple[int, Sequence[Buffer]]]) -> None:
        """`pwritev`s and an `fdatasync(2)` in one thread hop, which costs more than either on a fast device."""
        try:
            await self._in_thread(_write_durably, extents)
        except FlushFailed:
            if self._file is not None:
                self._file.unreported = None
            raise

    async def grow(self, size: int | None) -> None:
        """`ftruncate(2)` of a regular file, and an `fsync(2)`. A block device has the size that it has."""
        self.size = await self._in_thread(_grow, self._is_block, size)

    async def close(self) -> None:
        """Let go of the descriptor; that drops the lock, unless a thread that was left behind still works on it."""
        self._file = self._direct = None

    async def read_label(self) -> Label | None:
        """From the extended attributes `user.lcfs.uuid` and `user.lcfs.stamp`."""
        return None if self._is_block else await self._in_thread(_read_label)

    async def write_label(self, label: Label) -> None:
        """Two extended attributes and an `fsync(2)`, where the file system has them."""
        if not self._is_block:
            await self._in_thread(_write_label, label)

    def fileno(self) -> int:
        """Its descriptor's number."""
        return self._open_file.fd

    @property
    def identity(self) -> Hashable:
        """Device and inode, or the number of a block device."""
        return self._identity

    async def is_blank(self) -> bool:
        """A regular file without a single allocated block."""
        return not self._is_block and await self._in_thread(_nr_blocks) == 0

    def device_number(self) -> str:
        """The device itself, or the one that holds the file. Asked once: the file system may hang later."""
        return self._device_number

    def busy_ms(self) -> int | None:
        """`io_ticks` of that device (Linux Documentation/block/stat.rst)."""
        try:
            with open(f"/sys/dev/block/{self.device_number()}/stat", encoding="ascii") as stat_file:
                return int(stat_file.read().split()[9])
        except (OSError, IndexError, ValueError):
            return None


class FileStorage(Storage):
    """The file system."""

    async def open(self, path: str, *, readonly: bool = False) -> BlockStore:
        """`open(2)`, `flock(2)`, and `O_EXCL` for a block device, which keeps mount(8) away too."""
        return await trio.to_thread.run_sync(_open, path, readonly, abandon_on_cancel=True)

    async def create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        """`O_TMPFILE`, mode 0600, a truncate, a sync, and a link to the name; `O_CREAT | O_EXCL` where that is unknown."""
        try:
            store, directory, linked = await trio.to_thread.run_sync(_begin_file, path, size, abandon_on_cancel=True)
            try:
                if fill is not None:
                    await fill(store)
                linked = await trio.to_thread.run_sync(_finish_file, store, directory, linked, abandon_on_cancel=True)
            except BaseException:
                await store.close()
                if linked:
                    os.unlink(path)
                raise
        except OSError as exc:
            raise _create_error(path, size, exc) from None
        return store

    async def remove(self, path: str) -> None:
        """`unlink(2)`."""
        os.unlink(path)

    def canonical(self, path: str) -> str:
        """`realpath(3)`."""
        return os.path.realpath(path)

    def exists(self, path: str) -> bool:
        """A dangling symlink counts: something is there."""
        return os.path.lexists(path)

    async def look(self, path: str) -> Place:
        """In a thread: a file system that hangs holds up nobody else."""
        return await trio.to_thread.run_sync(_look, path, abandon_on_cancel=True)

    def same(self, path: str, other: str) -> bool:
        """By device and inode, or by number for block devices."""
        try:
            a, b = os.stat(path), os.stat(other)
        except OSError:
            return os.path.realpath(path) == os.path.realpath(other)
        if stat.S_ISBLK(a.st_mode) and stat.S_ISBLK(b.st_mode):
            return a.st_rdev == b.st_rdev
        return os.path.samestat(a, b)


def _begin_file(path: str, size: int) -> tuple[FileStore, _Descriptor, bool]:
    """A locked file of `size` bytes, its directory, and whether it has its name already."""
    if os.path.lexists(path):
        raise AlreadyThere(f"{path} already exists; give another path")
    parent, name = os.path.split(os.path.abspath(path))
    directory = _Descriptor(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    linked = False
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory.fd)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory.fd)
        linked = True
    store = FileStore(path, fd, size, stat.S_IFREG)
    try:
        _lock(fd, path)
        os.ftruncate(fd, size)
    except BaseException:
        if linked:
            os.unlink(name, dir_fd=directory.fd)
        raise
    return store, directory, linked


def _finish_file(store: FileStore, directory: _Descriptor, linked: bool) -> bool:
    """Durable, and under its name."""
    fd = store.fileno()
    os.fsync(fd)
    if not linked:
        name = os.path.basename(store.name)
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=directory.fd, dst_dir_fd=directory.fd, follow_symlinks=True)
    os.fsync(directory.fd)
    return True


def _open(path: str, readonly: bool) -> FileStore:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise NoSuchThing(f"{path} does not exist; create it or correct the path") from None
    except OSError as exc:
        raise Unsuitable(f"{path} cannot be used: {exc.strerror}", errno=exc.errno) from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a special file"
        raise Unsuitable(f"{path} is {kind}; give a regular file or a block device")
    is_block = stat.S_ISBLK(status.st_mode)
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | (os.O_EXCL if is_block else 0)
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise InUse(f"{path} is in use by the system (mounted, or held by another); release it first") from None
        if exc.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise Unsuitable(f"{path} is read-only here; make it writable, or mount with -o ro", errno=exc.errno) from None
        raise Unsuitable(f"{path} cannot be opened: {exc.strerror}", errno=exc.errno) from None
    try:
        # root opens what the mode forbids; the owner's wish to keep a file unchanged counts all the same
        if not readonly and not is_block and not status.st_mode & 0o222:
            raise Unsuitable(f"{path} is read-only; make it writable, or mount with -o ro", errno=errno.EACCES)
        _lock(fd, path)
        size = os.lseek(fd, 0, os.SEEK_END) if is_block else os.fstat(fd).st_size
        # a page that failed to be written back may look clean and right in the page cache: let go of what was
        # cached before, so that recovery judges what is on the medium
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if size == 0:
            raise Unsuitable(f"{path} is empty; remove it and lcfs creates it, or give a file that has a size")
    except BaseException:
        os.close(fd)
        raise
    return FileStore(path, fd, size, status.st_mode)


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"{path} is in use by an lcfs (it holds the lock); release it there first") from None


def _look(path: str) -> Place:
    # a link to nowhere is there: nothing is to be created where it leads, and an attempt to open it tells what is missing
    there = os.path.lexists(path)
    path = os.path.realpath(path)
    try:
        status = os.stat(path)
    except OSError:
        return Place(path, there, path)
    identity = status.st_rdev if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)
    return Place(path, True, identity)


def _create_error(path: str, size: int, exc: OSError) -> Exception:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(f"no room to create {path} with {size} bytes: {exc.strerror}; free some or choose a smaller size")
    if exc.errno == errno.ENOENT:
        return NoSuchThing(f"the directory of {path} does not exist; create it first")
    return NotPermitted(f"{path} cannot be created: {exc.strerror}", errno=exc.errno)
