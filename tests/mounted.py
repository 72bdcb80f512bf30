# SPDX-License-Identifier: GPL-2.0-or-later
"""Mount operations in this process, so that a test can hold a handler and look at the mount at the same time.

System calls on the mount are made in threads (`syscall`): in trio's own thread they would wait for themselves.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pyfuse3
import trio

from lcfs import fuse_loop

R = TypeVar("R")

PATIENCE = 30
"""Less than a test's own time-out, which would leave the mount behind."""


@asynccontextmanager
async def mounted(operations: pyfuse3.Operations, mountpoint: Path) -> AsyncIterator[None]:
    """`operations` on `mountpoint` while the block runs, which it may for PATIENCE seconds."""
    mountpoint.mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(fuse_loop.serve, operations, str(mountpoint), {"fsname=test"})
        try:
            with trio.fail_after(PATIENCE):
                yield
        finally:
            fuse_loop.stop()


async def syscall(function: Callable[..., R], *arguments: object) -> R:
    """A system call in a thread; one that hangs is left behind when the test gives up."""
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=_threads)


_threads = trio.CapacityLimiter(1000)


def read_at(path: Path, offset: int) -> bytes:
    """512 bytes, past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = memoryview(bytearray(8192))
        start = -_address(buffer) % 4096
        count = os.preadv(fd, [buffer[start : start + 512]], offset)
        return bytes(buffer[start : start + count])
    finally:
        os.close(fd)


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
