# SPDX-License-Identifier: GPL-2.0-or-later
"""The floor in Python: a pyfuse3 server that does nothing, as it comes or on lcfs's request loop.

Usage: floor_pyfuse3.py [--drained] MOUNTPOINT SIZE_IN_BYTES

One file, `disk`, as in floor.c. As it comes means `pyfuse3.main()` with its defaults, as the documentation has it;
--drained means `lcfs.fuse_loop.serve`. What lies between the second and lcfs is the engine.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext, SetattrFields

from lcfs import fuse_loop

DISK: InodeT = pyfuse3.ROOT_INODE + 1
HANDLE: FileHandleT = 1
ZEROS = memoryview(bytes(1 << 20))


class Floor(pyfuse3.Operations):
    """Answers everything and keeps nothing."""

    enable_writeback_cache = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """A directory with one file."""
        entry = EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o600 if inode == DISK else stat.S_IFDIR | 0o755
        entry.st_size = self._size if inode == DISK else 0
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Changes nothing; losetup and fio may truncate to the size the file has."""
        return await self.getattr(inode, ctx)

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Only `disk`."""
        if name != b"disk":
            raise FUSEError(errno.ENOENT)
        return await self.getattr(DISK, ctx)

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        """Always."""
        return FileInfo(fh=HANDLE, keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Zeros."""
        return cast(bytes, ZEROS[: max(0, min(size, self._size - off))])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Dropped."""
        return len(buf)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """At once."""

    async def flush(self, fh: FileHandleT) -> None:
        """At once."""


async def _as_it_comes(operations: Floor, mountpoint: str) -> None:
    pyfuse3.init(operations, mountpoint, set(pyfuse3.default_options) | {"fsname=floor"})
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.close()


async def _until_stopped(serve: Callable[[], Awaitable[None]]) -> None:
    async def stop_on_signal(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        await serve()
        nursery.cancel_scope.cancel()


def main(words: list[str]) -> int:
    """Serve until unmounted or told to stop."""
    drained = words[:1] == ["--drained"]
    mountpoint, size = words[1:] if drained else words
    operations = Floor(int(size))
    if drained:
        trio.run(_until_stopped, functools.partial(fuse_loop.serve, operations, mountpoint, ["fsname=floor"]))
    else:
        trio.run(_until_stopped, functools.partial(_as_it_comes, operations, mountpoint))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
