# SPDX-License-Identifier: GPL-2.0-or-later
"""The drained request loop: fair, awake, and unharmed by requests that wait, go away, or come while it closes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs
import pyfuse3
import pytest
import trio
import trio.testing

from lcfs import fuse_loop
from lcfs.engine import Failed
from lcfs.fuse_loop import GRACE, MIN_READERS, TURN, DrainedTrio, ReaderNursery, ReadLock
from tests.mounted import mounted, read_at, syscall

# The lock


async def test_the_owner_takes_the_lock_again_at_once_while_another_waits() -> None:
    lock, order = ReadLock(), []

    async def other() -> None:
        async with lock:
            order.append("other")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            async with lock:
                order.append("owner")
    assert order == ["owner", "owner", "owner", "other"]


async def test_who_waits_for_the_lock_has_it_as_soon_as_the_owner_waits_for_something_else() -> None:
    lock, done = ReadLock(), trio.Event()

    async def other() -> None:
        async with lock:
            done.set()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
        async with lock:
            pass
        with trio.fail_after(1):
            await done.wait()


async def test_one_at_a_time_and_nobody_is_forgotten() -> None:
    lock, inside, served = ReadLock(), 0, 0

    async def reader() -> None:
        nonlocal inside, served
        for turn in range(20):
            async with lock:
                inside += 1
                assert inside == 1
                if turn % 3:
                    await trio.lowlevel.checkpoint()
                inside -= 1
            served += 1
            if turn % 5 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(reader)
    assert served == 200


async def test_a_waiter_cancelled_as_it_is_woken_passes_the_lock_on() -> None:
    lock, scopes, served = ReadLock(), [trio.CancelScope() for _ in range(5)], 0

    async def reader(scope: trio.CancelScope) -> None:
        nonlocal served
        with scope:
            async with lock:
                served += 1
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        async with lock:
            for scope in scopes:
                nursery.start_soon(reader, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[1].cancel()  # while it waits
        scopes[0].cancel()  # woken by the release, and not run yet
    assert served == 4
    assert [scope.cancelled_caught for scope in scopes] == [True, True, False, False, False]


# Waiting for requests, with a socket for the FUSE descriptor


@attrs.define
class Requests:
    """A descriptor to wait for, and a clock that a test sets."""

    readable: socket.socket
    sender: socket.socket
    now: float = 0.0

    def arrive(self) -> None:
        self.sender.send(b"request")


@pytest.fixture
def requests() -> Iterator[Requests]:
    readable, sender = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with readable, sender:
        yield Requests(readable, sender)


async def test_requests_are_taken_back_to_back_until_the_turn_is_over(requests: Requests) -> None:
    drained = DrainedTrio(lambda: requests.now)
    others_ran = 0

    async def others() -> None:
        nonlocal others_ran
        while True:
            await trio.lowlevel.checkpoint()
            others_ran += 1

    async with drained.open_nursery():
        async with trio.open_nursery() as nursery:
            requests.arrive()
            requests.now = TURN
            await drained.wait_readable(requests.readable.fileno())
            nursery.start_soon(others)
            for _ in range(1000):
                await drained.wait_readable(requests.readable.fileno())
            assert others_ran == 0
            for _ in range(100):
                requests.now += TURN
                await drained.wait_readable(requests.readable.fileno())
            assert 98 <= others_ran <= 101
            nursery.cancel_scope.cancel()


async def test_without_a_request_it_waits_for_one(requests: Requests) -> None:
    drained = DrainedTrio()
    async with drained.open_nursery(), trio.open_nursery() as nursery:
        arrived = trio.Event()

        async def reader() -> None:
            await drained.wait_readable(requests.readable.fileno())
            assert arrived.is_set()

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        arrived.set()
        requests.arrive()


async def test_a_request_that_was_withdrawn_blocks_nobody(requests: Requests) -> None:
    drained = DrainedTrio()
    async with drained.open_nursery():
        requests.arrive()
        await drained.wait_readable(requests.readable.fileno())
        requests.readable.recv(100)
        with pytest.raises(BlockingIOError):  # as fuse_session_receive_buf has it
            requests.readable.recv(100)


async def test_a_new_reader_gets_as_far_as_waiting_before_the_next_request_is_read(requests: Requests) -> None:
    drained = DrainedTrio(lambda: requests.now)
    steps = []

    async def session_loop() -> None:
        steps.append("new reader waits")

    async with drained.open_nursery() as readers:
        requests.arrive()
        await drained.wait_readable(requests.readable.fileno())
        readers.start_soon(session_loop, name="reader")
        await drained.wait_readable(requests.readable.fileno())
        steps.append("request")
    assert steps == ["new reader waits", "request"]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOENT])
async def test_a_reader_outlives_a_request_that_went_away(number: int) -> None:
    calls = []

    async def session_loop(*arguments: int) -> None:
        calls.append(arguments)
        if len(calls) < 3:
            raise OSError(number, "gone")

    async with trio.open_nursery() as nursery:
        ReaderNursery(nursery).start_soon(session_loop, 1, 2, name="reader")
    assert calls == [(1, 2)] * 3


async def test_a_reader_does_not_outlive_another_error() -> None:
    async def session_loop() -> None:
        raise OSError(errno.ENOMEM, "no memory")

    with pytest.raises(ExceptionGroup) as group:
        async with trio.open_nursery() as nursery:
            ReaderNursery(nursery).start_soon(session_loop, name="reader")
    assert [exc.errno for exc in group.value.exceptions if isinstance(exc, OSError)] == [errno.ENOMEM]


@pytest.mark.parametrize("has_request", [False, True])
async def test_closing_reaches_a_reader_wherever_it_is(requests: Requests, has_request: bool) -> None:
    drained = DrainedTrio(lambda: requests.now)
    outcome = []

    async def reader() -> None:
        while True:
            try:
                requests.now += TURN  # so that it gives way each time
                await drained.wait_readable(requests.readable.fileno())
            except trio.ClosedResourceError:
                outcome.append("closed")
                return

    async with drained.open_nursery(), trio.open_nursery() as nursery:
        if has_request:
            requests.arrive()
        nursery.start_soon(reader)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        drained.notify_closing(requests.readable.fileno())
    assert outcome == ["closed"]


async def test_handlers_have_a_grace_once_nothing_can_be_answered(
    requests: Requests, autojump_clock: trio.testing.MockClock
) -> None:
    drained = DrainedTrio()
    ended = []

    async def handler(seconds: float) -> None:
        await trio.sleep(seconds)
        ended.append(seconds)

    start = trio.current_time()
    async with drained.open_nursery() as readers:
        readers.start_soon(handler, GRACE / 2, name="quick")
        readers.start_soon(handler, 1e6, name="hung")
        drained.notify_closing(requests.readable.fileno())
    assert ended == [GRACE / 2]
    assert trio.current_time() - start == pytest.approx(GRACE)


# Real mounts


class Files(pyfuse3.Operations):
    """Files `a` and `b` of a MiB each; requests for `a` wait while `gate` is set."""

    supports_dot_lookup = False
    SIZE = 1 << 20
    INODES = {b"a": 2, b"b": 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.gate: trio.Event | None = None
        self.waiting = 0
        self.one_more = trio.Event()
        self.cancelled = 0

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name not in self.INODES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(self.INODES[name], ctx)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o600
        entry.st_size = self.SIZE
        return entry

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        if fh == self.INODES[b"a"] and self.gate is not None:
            self.waiting += 1
            self.one_more.set()
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1
        return bytes([fh]) * size

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def is_waiting(self, count: int) -> None:
        """Return when so many requests for `a` wait."""
        with trio.fail_after(30):
            while self.waiting < count:
                self.one_more = trio.Event()
                await self.one_more.wait()


@pytest.mark.mount
async def test_requests_that_wait_never_stop_the_others(tmp_path: Path) -> None:
    files, mnt = Files(), tmp_path / "mnt"
    stuck = 20 * MIN_READERS
    async with mounted(files, mnt):
        files.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(stuck):
                nursery.start_soon(syscall, read_at, mnt / "a", number * 512)
            await files.is_waiting(stuck)
            with trio.fail_after(10):
                for number in range(100):
                    assert await syscall(read_at, mnt / "b", number * 512) == b"\3" * 512
                assert (await syscall(os.stat, mnt / "a")).st_size == Files.SIZE
            assert files.waiting == stuck
            files.gate.set()
        assert files.waiting == 0


@pytest.mark.mount
async def test_readers_that_are_not_needed_any_more_end(tmp_path: Path) -> None:
    files, mnt = Files(), tmp_path / "mnt"

    def readers() -> int:
        this = trio.lowlevel.current_root_task()
        assert this is not None
        tasks, count = [this], 0
        while tasks:
            task = tasks.pop()
            count += task.name.startswith("pyfuse-")
            for nursery in task.child_nurseries:
                tasks += nursery.child_tasks
        return count

    async with mounted(files, mnt):
        files.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(10 * MIN_READERS):
                nursery.start_soon(syscall, read_at, mnt / "a", number * 512)
            await files.is_waiting(10 * MIN_READERS)
            assert 10 * MIN_READERS < readers() <= 10 * MIN_READERS + 2
            files.gate.set()
        for _ in range(100):
            await syscall(read_at, mnt / "b", 0)
        assert readers() <= MIN_READERS + 2


@pytest.mark.mount
async def test_an_unmount_ends_the_loop(tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(fuse_loop.serve, Files(), str(mnt), {"fsname=test"})
            assert await syscall(os.path.ismount, mnt)
            await trio.run_process(["fusermount3", "-u", str(mnt)])
    assert not os.path.ismount(mnt)


@pytest.mark.mount
async def test_stop_ends_the_loop_and_what_hangs_in_it(tmp_path: Path) -> None:
    files, mnt = Files(), tmp_path / "mnt"
    failures = []

    async def read() -> None:
        try:
            await syscall(read_at, mnt / "a", 0)
        except OSError as exc:
            failures.append(exc.errno)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            async with mounted(files, mnt):
                files.gate = trio.Event()
                nursery.start_soon(read)
                await files.is_waiting(1)
    assert files.cancelled == 1
    assert failures in ([errno.ECONNABORTED], [errno.ENOTCONN])
    assert not os.path.ismount(mnt)


@pytest.mark.mount
async def test_cancelling_serve_unmounts(tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(fuse_loop.serve, Files(), str(mnt), {"fsname=test"})
        assert await syscall(read_at, mnt / "b", 0) == b"\3" * 512
        nursery.cancel_scope.cancel()
    assert not os.path.ismount(mnt)


@pytest.mark.mount
async def test_a_mount_that_is_refused_can_be_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failed, match="could not be mounted"):
        await fuse_loop.serve(Files(), str(tmp_path / "missing"), {"fsname=test"})
    with pytest.raises(Failed, match="could not be mounted"):
        await fuse_loop.serve(Files(), str(tmp_path), {"no_such_option"})
    assert "no_such_option" in capfd.readouterr().err
    async with mounted(Files(), tmp_path / "mnt"):
        assert await syscall(read_at, tmp_path / "mnt" / "b", 0) == b"\3" * 512


@pytest.mark.mount
async def test_there_is_one_mount_per_process(tmp_path: Path) -> None:
    async with mounted(Files(), tmp_path / "mnt"):
        with pytest.raises(RuntimeError, match="already"):
            await fuse_loop.serve(Files(), str(tmp_path / "other"), {"fsname=test"})


def test_stop_without_a_mount_does_nothing() -> None:
    fuse_loop.stop()


@pytest.mark.mount
async def test_a_loop_woken_for_nothing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    woken_for_nothing = 0
    wait_readable = DrainedTrio.wait_readable

    async def lying(self: DrainedTrio, fd: int) -> None:
        nonlocal woken_for_nothing
        if not os.get_blocking(fd) and woken_for_nothing < 20:
            woken_for_nothing += 1
            return
        await wait_readable(self, fd)

    monkeypatch.setattr(DrainedTrio, "wait_readable", lying)
    async with mounted(Files(), tmp_path / "mnt"):
        for number in range(50):
            assert await syscall(read_at, tmp_path / "mnt" / "b", number * 512) == b"\3" * 512
    assert woken_for_nothing == 20
