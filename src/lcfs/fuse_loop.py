# SPDX-License-Identifier: GPL-2.0-or-later
"""How requests are taken from the kernel: drained, many in a row, by whichever task happens to run.

pyfuse3 keeps a few reader tasks. One holds a lock, waits for the FUSE descriptor, lets the lock go, reads one
request and runs its handler; then it queues for the lock again. Under trio's own primitives that is an epoll
round and a change of task for each request, although the kernel has dozens ready. pyfuse3 looks `trio` up in its
own module each time (that is how `pyfuse3.asyncio` replaces it), so `DrainedTrio` is put there, with a lock that
the running reader may take again at once and a `wait_readable` that looks before it waits.

What keeps that fair:

- A handler that waits gives the thread away, and another reader has been woken by then: letting go of the lock
  wakes one if any waits for it and none is on its way. So a request that waits never stops the next.
- A reader that never waits lets everybody else run when its turn of TURN seconds is over.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from types import TracebackType
from typing import Any

import pyfuse3
import trio

from lcfs.engine.errors import Failed
from lcfs.fuse_limits import raise_background_limits

log = logging.getLogger("lcfs.fuse_loop")

TURN = 0.001
"""Seconds for which requests are handled back to back before every other task gets its turn."""

MIN_READERS = 16
"""Idle readers above this number end. A reader is made when none is idle, which costs as much as a request."""

MAX_READERS = 8192
"""Readers at most, idle or in a handler. More than the kernel hands out as background requests (fuse_limits), so
that with all of those stuck behind a hung backing the control tree and the other disks are still served."""

GRACE = 1.0
"""Seconds that handlers have left once the kernel takes no more answers; then they are cancelled."""

SessionLoop = Callable[..., Awaitable[None]]


class ReadLock:
    """A lock that its owner may take again at once, as long as somebody is woken to find it free.

    trio's own hands itself over to the first waiter on release, so every use costs a change of task.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiters = trio.lowlevel.ParkingLot()
        self._waking = False
        """One waiter was woken and has not run yet; it will look at the lock, so nobody else need be woken."""

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiters.park()
            self._waking = False
        self._held = True

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._held = False
        if self._waiters and not self._waking:
            self._waking = True
            self._waiters.unpark()


class ReaderNursery:
    """The nursery pyfuse3 starts its readers in."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.unborn = 0
        """Readers started that have not run yet."""

    def start_soon(self, session_loop: SessionLoop, *args: Any, name: str) -> None:
        """Start a reader. pyfuse3 passes `pyfuse3._session_loop` and its arguments."""
        self.unborn += 1
        self._nursery.start_soon(self._run, session_loop, args, name=name)

    async def _run(self, session_loop: SessionLoop, args: tuple[Any, ...]) -> None:
        self.unborn -= 1
        while True:
            try:
                await session_loop(*args)
                return
            except OSError as exc:
                # The request that made the descriptor readable is gone again: its caller was killed. Read on; pyfuse3
                # takes the error for the end, but still counts this reader.
                if exc.errno not in (errno.EAGAIN, errno.ENOENT):
                    raise

    def end(self) -> None:
        """No answer can be given any more: idle readers end by themselves, handlers within GRACE."""
        self._nursery.cancel_scope.deadline = min(self._nursery.cancel_scope.deadline, trio.current_time() + GRACE)


class DrainedTrio:
    """The names pyfuse3 takes from its global `trio`, for one mount."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = ReadLock
    from_thread = trio.from_thread

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lowlevel = self
        self.current_task = trio.lowlevel.current_task
        self.current_trio_token = trio.lowlevel.current_trio_token
        self._clock = clock
        self._turn_ends = 0.0
        self._readers: ReaderNursery | None = None
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None
        self._closing = False

    @contextlib.asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[ReaderNursery]:
        """The nursery of all readers."""
        async with trio.open_nursery() as nursery:
            self._readers = ReaderNursery(nursery)
            yield self._readers

    async def wait_readable(self, fd: int) -> None:
        """Return when a request can be read from `fd`, without letting anybody else run while the turn lasts.

        Raises ClosedResourceError after `notify_closing`.
        """
        poll = self._poll or self._watch(fd)
        readers = self._readers
        assert readers is not None
        while not self._closing:
            events = poll(0)
            if not events:
                await trio.lowlevel.wait_readable(fd)
                self._turn_ends = self._clock() + TURN
            elif readers.unborn or self._clock() >= self._turn_ends:
                # A reader that was just made has to get as far as the lock before the next request is read: until
                # then pyfuse3 sees nobody idle and makes one more for each request.
                await trio.lowlevel.checkpoint()
                self._turn_ends = self._clock() + TURN
            else:
                if events[0][1] & select.POLLERR:
                    readers.end()
                return
        raise trio.ClosedResourceError("the mount is being closed")

    def notify_closing(self, fd: int) -> None:
        """Wake whoever waits for `fd`: no more requests are to be read (pyfuse3.terminate)."""
        self._closing = True
        if self._readers is not None:
            self._readers.end()
        trio.lowlevel.notify_closing(fd)

    def _watch(self, fd: int) -> Callable[[int], list[tuple[int, int]]]:
        # A request can be withdrawn between poll(2) and read(2) when its caller is killed. A blocking read would then
        # hold up the whole process until the next request; like this it is EAGAIN, see ReaderNursery.
        os.set_blocking(fd, False)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        return self._poll


_serving: DrainedTrio | None = None


async def serve(
    operations: pyfuse3.Operations,
    mountpoint: str,
    options: Collection[str],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount `operations` on the directory `mountpoint` and serve it until it is unmounted or `stop` is called.

    `options` are libfuse's, such as `fsname=ssd.img` and `allow_other`; `subtype=lcfs` and `default_permissions` are
    always on. `task_status.started()` is called when the tree has answered through the kernel. On return, also by
    cancellation, nothing is mounted (a connection that somebody aborted, as `umount -f` does, leaves a dead mount point);
    what was not durable before is not made so here. One mount per process.

    Raises Failed when the mount is refused; libfuse prints the reason on stderr.
    """
    global _serving
    if _serving is not None:
        raise RuntimeError("this process serves a mount already")
    try:
        pyfuse3.init(operations, mountpoint, {"subtype=lcfs", "default_permissions", *options})
    except RuntimeError as exc:
        raise Failed(f"{mountpoint} could not be mounted ({exc}); the line above says why") from exc
    _serving = drained = DrainedTrio()
    pyfuse3.trio = drained  # type: ignore[attr-defined]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_main, nursery.cancel_scope)
            device = (await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)).st_dev
            raise_background_limits(os.minor(device))
            task_status.started()
    finally:
        _serving = None
        pyfuse3.close()
        pyfuse3.trio = trio  # type: ignore[attr-defined]


async def _main(scope: trio.CancelScope) -> None:
    await pyfuse3.main(min_tasks=MIN_READERS, max_tasks=MAX_READERS)
    scope.cancel()


def stop() -> None:
    """Make `serve` return without waiting for an unmount; must be called in trio's thread.

    Whoever still uses the tree gets errors from then on: unmount it instead wherever that can be done.
    """
    if _serving is not None:
        pyfuse3.terminate()
