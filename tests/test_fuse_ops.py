# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree through the kernel: what system calls do to disks, attributes and control."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pyfuse3
import pytest
import trio

from lcfs.engine import BlockStore, Failed, LcfsError
from lcfs.fuse_ops import Operations
from lcfs.sysfs_tree import Tree
from lcfs.testing import Effect, Fault, FaultStore, Operation
from tests.mounted import mounted, read_at, syscall
from tests.plugins.log_check import ExpectLog
from tests.tree.world import MIB, TWO_DISKS, World, open_world

pytestmark = pytest.mark.mount


@attrs.frozen
class Mount:
    """A mounted world."""

    world: World
    path: Path
    operations: Operations

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@pytest.fixture
async def mnt(tmp_path: Path) -> AsyncIterator[Mount]:
    async with open_world(tmp_path / "sys", TWO_DISKS) as world:
        path = tmp_path / "mnt"
        operations = Operations(Tree(world.manager, str(path), sys_block=str(world.sys_block)))
        async with mounted(operations, path):
            yield Mount(world, path, operations)


async def fails(number: int, function: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as failure:
        await syscall(function, *arguments)
    assert errno.errorcode[failure.value.errno or 0] == errno.errorcode[number]


async def until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


def pwrite(path: Path, data: bytes, offset: int, flags: int = 0) -> int:
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def pread(path: Path, length: int, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def ask(path: Path, line: str) -> str:
    """A message and its answer on one open file, without a seek."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, line.encode() + b"\n")
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


# Disks


async def test_a_disk_is_a_file_of_its_size(mnt: Mount) -> None:
    status = await syscall(os.stat, mnt / "devices/1")
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (status.st_size, status.st_blksize, status.st_blocks) == (4 * MIB, 4096, 4 * MIB // 512)
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 4096), (1, 1), (511, 513), (4095, 2), (4096 * 3 + 7, 70000), (MIB - 1, 2 * MIB + 3)]
)
async def test_any_offset_and_length_is_served(mnt: Mount, offset: int, length: int) -> None:
    data = bytes(n * 7 & 0xFF for n in range(length))
    assert await syscall(pwrite, mnt / "devices/1", data, offset) == length
    assert await syscall(pread, mnt / "devices/1", length, offset) == data
    assert bytes(await mnt.world.disk.read(offset, length)) == data
    around = await syscall(pread, mnt / "devices/1", length + 20, max(0, offset - 10))
    assert around == bytes(min(10, offset)) + data + bytes(len(around) - length - min(10, offset))


async def test_past_the_end_it_behaves_as_a_block_device(mnt: Mount) -> None:
    disk, end = mnt / "devices/1", 4 * MIB
    await fails(errno.ENOSPC, pwrite, disk, b"x", end)
    await fails(errno.ENOSPC, pwrite, disk, b"x" * 4096, end + 12345)
    assert await syscall(pwrite, disk, b"x" * 8192, end - 4096) == 4096
    assert await syscall(pread, disk, 8192, end - 100) == b"x" * 100
    assert await syscall(pread, disk, 8192, end) == b""
    assert await syscall(pread, disk, 8192, end + 12345) == b""
    assert (await syscall(os.stat, disk)).st_size == end


async def test_direct_io(mnt: Mount) -> None:
    def direct() -> bytes:
        memory = mmap.mmap(-1, 8192)
        memory[:] = b"d" * 8192
        fd = os.open(mnt / "devices/1", os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(fd, [memory], 4096) == 8192
            memory[:] = bytes(8192)
            assert os.preadv(fd, [memory], 4096) == 8192
            return memory[:]
        finally:
            os.close(fd)

    before = await syscall(pread, mnt / "devices/1", 16384, 0)  # now in the page cache
    assert before == bytes(16384)
    assert await syscall(direct) == b"d" * 8192
    assert await syscall(pread, mnt / "devices/1", 16384, 0) == bytes(4096) + b"d" * 8192 + bytes(4096)


async def test_o_trunc_does_nothing(mnt: Mount) -> None:
    await syscall(pwrite, mnt / "devices/1", b"kept", 0)
    assert await syscall(pwrite, mnt / "devices/1", b"K", 0, os.O_TRUNC) == 1
    assert (await syscall(os.stat, mnt / "devices/1")).st_size == 4 * MIB
    assert await syscall(pread, mnt / "devices/1", 5, 0) == b"Kept\0"


@pytest.mark.parametrize(
    ("flags", "durable"),
    [(0, False), (os.O_SYNC, True), (os.O_DSYNC, True), (os.O_DIRECT, False), (os.O_DIRECT | os.O_DSYNC, True)],
)
async def test_o_sync_means_what_it_says(mnt: Mount, flags: int, durable: bool) -> None:
    def write() -> None:
        fd = os.open(mnt / "devices/1", os.O_WRONLY | flags)
        try:
            os.pwritev(fd, [mmap.mmap(-1, 4096)], 0)
        finally:
            os.close(fd)

    await syscall(write)
    cache = mnt.world.cache
    assert (cache.appended <= cache.barriers.durable) == durable


async def test_a_single_write_may_ask_to_be_durable(mnt: Mount) -> None:
    def write() -> None:
        fd = os.open(mnt / "devices/1", os.O_WRONLY)
        try:
            os.pwritev(fd, [b"x" * 4096], 0, os.RWF_DSYNC)
        finally:
            os.close(fd)

    await syscall(write)
    assert mnt.world.cache.appended <= mnt.world.cache.barriers.durable


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
async def test_fsync_is_a_barrier_and_close_is_none(mnt: Mount, sync: Callable[[int], None]) -> None:
    cache = mnt.world.cache
    await syscall(pwrite, mnt / "devices/1", b"x" * 4096, 0)
    assert cache.appended > cache.barriers.durable

    def make_durable() -> None:
        fd = os.open(mnt / "devices/1", os.O_RDONLY)
        try:
            sync(fd)
        finally:
            os.close(fd)

    await syscall(make_durable)
    assert cache.appended <= cache.barriers.durable


async def test_an_open_disk_is_in_use(mnt: Mount) -> None:
    await syscall(ask, mnt / "control", "create 3 /three.img 1M")
    fd = await syscall(os.open, mnt / "devices/3", os.O_RDWR)
    await fails(errno.EBUSY, ask, mnt / "control", "remove 3")
    await syscall(os.close, fd)
    await syscall(ask, mnt / "control", "remove 3")
    await fails(errno.ENOENT, os.stat, mnt / "devices/3")


async def test_a_disk_that_goes_missing_while_open_is_an_error_and_no_more(mnt: Mount) -> None:
    fd = await syscall(os.open, mnt / "devices/1", os.O_RDWR)
    try:
        assert await syscall(os.pwrite, fd, b"x", 0) == 1
        mnt.world.disk.set_missing("it was unplugged")
        await fails(errno.ENODEV, os.pwrite, fd, b"x", 0)
        await fails(errno.ENODEV, os.pread, fd, 1, 2 * MIB)
        await fails(errno.ENODEV, os.fsync, fd)
        await fails(errno.ENOENT, os.stat, mnt / "devices/1")
        assert (await syscall(os.fstat, fd)).st_size == 4 * MIB
        assert await syscall(pwrite, mnt / "devices/2", b"x", 0) == 1
    finally:
        await syscall(os.close, fd)


async def test_a_disk_with_the_id_of_a_removed_one_is_another_file(mnt: Mount) -> None:
    await syscall(ask, mnt / "control", "create 3 /three.img 1M")
    await syscall(pwrite, mnt / "devices/3", b"old" * 1000, 0)
    assert await syscall(pread, mnt / "devices/3", 3, 0) == b"old"
    ino = (await syscall(os.stat, mnt / "devices/3")).st_ino
    await syscall(ask, mnt / "control", "remove 3")
    await syscall(ask, mnt / "control", "create 3 /again.img 2M")
    status = await syscall(os.stat, mnt / "devices/3")
    assert status.st_ino != ino
    assert status.st_size == 2 * MIB
    assert await syscall(pread, mnt / "devices/3", 3, 0) == bytes(3)


async def test_a_hung_backing_stops_neither_the_other_disk_nor_the_tree(tmp_path: Path) -> None:
    fault = Fault(Operation.READ, Effect.HANG, times=0)

    def wrap(path: str, store: BlockStore) -> BlockStore:
        return FaultStore(store, fault) if path == "/one.img" else store

    async with open_world(tmp_path / "sys", TWO_DISKS, wrap=wrap) as world:
        path = tmp_path / "mnt"
        async with mounted(Operations(Tree(world.manager, str(path))), path), trio.open_nursery() as nursery:
            fault.times = None

            async def read(offset: int) -> None:
                assert await syscall(read_at, path / "devices/1", offset) == bytes(512)

            for number in range(200):
                nursery.start_soon(read, number * 512)
            with trio.fail_after(20):
                await until(lambda: fault.met == 200)
                assert await syscall(pwrite, path / "devices/2", b"x" * 4096, 0) == 4096
                assert await syscall(pread, path / "devices/2", 4096, 0) == b"x" * 4096
                assert await syscall((path / "caches/1/state").read_text) == "running\n"
                assert "nr_segments: 7" in await syscall(ask, path / "control", "switch_to 1")
            fault.release()


# Attributes


async def test_echo_printf_and_tee_work(mnt: Mount) -> None:
    attribute = mnt / "caches/1/barrier_deadline_ms"
    for command in ("echo 5 > {}", "printf 6 > {}", "echo 7 | tee {} >/dev/null", "echo 8 >> {}", "echo 9 1<>{}"):
        await trio.run_process(["sh", "-c", command.format(attribute)])
        wanted = next(word for word in command.split() if word.isdigit())
        assert await syscall(attribute.read_text) == f"{wanted}\n"


async def test_a_refused_store_is_an_errno_and_control_says_why(mnt: Mount) -> None:
    await fails(errno.EINVAL, pwrite, mnt / "caches/1/barrier_deadline_ms", b"0", 0)
    assert "barrier_deadline_ms takes 1 to 1000, not 0" in await syscall((mnt / "control").read_text)
    await fails(errno.ERANGE, pwrite, mnt / "block/1/migrate_threshold", b"1" * 30, 0, os.O_TRUNC)
    assert (await syscall((mnt / "control").read_text)).startswith("block/1/migrate_threshold: ")


async def test_a_read_only_attribute_is_not_opened_for_writing_even_by_root(mnt: Mount) -> None:
    for name in ("caches/1/nr_segments", "block/1/size", "status", "metrics"):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            await fails(errno.EACCES, os.open, mnt / name, flags)
    await syscall(os.chmod, mnt / "block/1/size", 0o666)
    await fails(errno.EACCES, os.open, mnt / "block/1/size", os.O_WRONLY)


async def test_a_value_is_taken_at_offset_0(mnt: Mount) -> None:
    attribute = mnt / "caches/1/barrier_deadline_ms"

    def read_twice() -> list[bytes]:
        fd = os.open(attribute, os.O_RDONLY)
        try:
            parts = [os.read(fd, 1)]
            pwrite(attribute, b"900", 0)
            parts += [os.read(fd, 4096), os.read(fd, 4096)]
            os.lseek(fd, 0, os.SEEK_SET)
            return [*parts, os.read(fd, 4096)]
        finally:
            os.close(fd)

    assert await syscall(read_twice) == [b"3", b"\n", b"", b"900\n"]


async def test_links_lead_to_image_and_backing(mnt: Mount) -> None:
    assert await syscall(os.readlink, mnt / "caches/1/device") == "/ssd.img"
    assert await syscall(os.readlink, mnt / "block/2/device") == "/two.img"


# Control


async def test_a_message_and_its_answer(mnt: Mount) -> None:
    assert (await syscall(ask, mnt / "control", "SWITCH_TO 1")).startswith("\ncurrent cache_id_ptr: 1\n")

    def refused() -> tuple[int, bytes, bytes]:
        fd = os.open(mnt / "control", os.O_RDWR)
        try:
            os.write(fd, b"attach 7 1\n")
        except OSError as exc:
            return exc.errno or 0, os.read(fd, 65536), os.read(fd, 65536)
        finally:
            os.close(fd)
        return 0, b"", b""

    assert await syscall(refused) == (errno.ENOENT, b"there is no disk 7; there is 1, 2\n", b"")


async def test_a_shell_can_hold_control_open(mnt: Mount) -> None:
    script = 'exec 3<>"$1"; echo switch_to 1 >&3; cat <&3 | head -2; echo nonsense >&3; cat <&3'
    done = await trio.run_process(
        ["sh", "-c", script, "sh", mnt / "control"], capture_stdout=True, capture_stderr=True, check=False
    )
    answer = done.stdout.decode()
    assert answer.startswith("\ncurrent cache_id_ptr: 1\n'nonsense' is no message")


async def test_a_message_that_waits_locks_nobody_out_of_control(tmp_path: Path) -> None:
    """The kernel lets one write(2) at a time into an inode: the `cancel` must not wait for what it is to end."""
    fault = Fault(Operation.FLUSH, Effect.HANG, times=0)

    def wrap(path: str, store: BlockStore) -> BlockStore:
        return FaultStore(store, fault) if path == "/ssd.img" else store

    async with open_world(tmp_path / "sys", TWO_DISKS, wrap=wrap) as world:
        path = tmp_path / "mnt"
        async with mounted(Operations(Tree(world.manager, str(path))), path):
            await syscall(pwrite, path / "devices/1", b"x", 0)
            fault.times = None
            outcomes = []

            async def suspend() -> None:
                try:
                    await syscall(ask, path / "control", "suspend 1")
                except OSError as exc:
                    outcomes.append(exc.errno)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(suspend)
                with trio.fail_after(20):
                    await until(lambda: len(outcomes) == 19)  # one waits for the flush, the others hear of it
                    assert set(outcomes) == {errno.EBUSY}
                    await syscall(ask, path / "control", "cancel 1")
            assert outcomes[-1] == errno.ECANCELED
            assert await syscall((path / "block/1/suspended").read_text) == "0\n"
            fault.release()


async def test_control_is_one_file_again_when_nobody_writes(mnt: Mount) -> None:
    first = (await syscall(os.stat, mnt / "control")).st_ino
    fd = await syscall(os.open, mnt / "control", os.O_RDWR)
    while_open = (await syscall(os.stat, mnt / "control")).st_ino
    again = await syscall(os.open, f"/proc/self/fd/{fd}", os.O_RDWR)  # cannot be looked up anew
    await syscall(os.close, again)
    await syscall(os.close, fd)
    assert first != while_open
    assert (await syscall(os.stat, mnt / "control")).st_ino == first
    assert len(mnt.operations._control_aliases) <= 2


# What the tree refuses


async def test_what_the_tree_refuses_is_eperm(mnt: Mount) -> None:
    new, disk = mnt / "new", mnt / "devices/1"
    for function, *arguments in (
        (os.open, new, os.O_WRONLY | os.O_CREAT),
        (os.open, mnt / "devices/3", os.O_WRONLY | os.O_CREAT),
        (os.mkdir, new),
        (os.mkfifo, new),
        (os.symlink, "target", new),
        (os.link, disk, new),
        (os.unlink, disk),
        (os.unlink, mnt / "status"),
        (os.rmdir, mnt / "caches"),
        (os.rename, disk, mnt / "devices/3"),
        (os.rename, mnt / "devices/2", disk),
        (os.truncate, disk, 0),
        (os.truncate, disk, 4 * MIB + 1),
        (os.truncate, mnt / "status", 0),
    ):
        await fails(errno.EPERM, function, *arguments)
    await syscall(os.truncate, disk, 4 * MIB)
    assert sorted(await syscall(os.listdir, mnt.path)) == ["block", "caches", "control", "devices", "metrics", "status"]
    assert sorted(await syscall(os.listdir, mnt / "devices")) == ["1", "2"]


async def test_the_owner_may_hand_a_disk_to_somebody(mnt: Mount) -> None:
    disk = mnt / "devices/1"
    await syscall(os.chmod, disk, 0o640)
    if os.geteuid() == 0:
        await syscall(os.chown, disk, 1000, 1001)
        assert os.path.samestat(await syscall(os.stat, disk), await syscall(os.stat, disk))
        status = await syscall(os.stat, disk)
        assert (status.st_uid, status.st_gid) == (1000, 1001)
    assert stat.S_IMODE((await syscall(os.stat, disk)).st_mode) == 0o640


async def test_there_are_no_extended_attributes(mnt: Mount) -> None:
    await fails(errno.ENOTSUP, os.getxattr, mnt / "devices/1", "user.x")
    await fails(errno.ENOTSUP, os.setxattr, mnt / "devices/1", "user.x", b"1")


# The tree as a whole


async def test_find_and_cp_work(mnt: Mount, tmp_path: Path) -> None:
    found = await trio.run_process(["find", mnt.path, "-ls"], capture_stdout=True)
    names = {line.split()[10] for line in found.stdout.decode().splitlines()}
    assert {str(mnt.path), str(mnt / "devices/2"), str(mnt / "caches/1/status"), str(mnt / "block/1/device")} <= names
    await trio.run_process(["cp", "-a", mnt / "caches", tmp_path / "copy"])
    copies = {path.name: path.read_text() for path in (tmp_path / "copy/1").iterdir() if not path.is_symlink()}
    for name, text in copies.items():
        assert text == await syscall((mnt / f"caches/1/{name}").read_text), name
    assert os.readlink(tmp_path / "copy/1/device") == "/ssd.img"


async def test_statfs(mnt: Mount) -> None:
    nodes = await trio.run_process(["find", mnt.path], capture_stdout=True)
    status = await syscall(os.statvfs, mnt.path)
    assert (status.f_bsize, status.f_frsize, status.f_blocks) == (4096, 4096, 6 * MIB // 4096)
    assert (status.f_bfree, status.f_bavail, status.f_ffree) == (0, 0, 0)
    assert status.f_files == len(nodes.stdout.splitlines())


async def test_links_are_counted(mnt: Mount) -> None:
    for name, count in {"": 5, "caches": 3, "block": 4, "devices": 2, "caches/1": 2}.items():
        assert (await syscall(os.stat, mnt / name)).st_nlink == count, name


async def test_everything_belongs_to_whom_the_options_say(tmp_path: Path) -> None:
    async with open_world(tmp_path / "sys", TWO_DISKS) as world:
        path = tmp_path / "mnt"
        tree = Tree(world.manager, str(path), mode=0o660)
        async with mounted(Operations(tree, uid=os.getuid(), gid=12345), path):
            for name, mode in {"": 0o755, "devices/1": 0o660, "control": 0o660, "caches/1/uuid": 0o444}.items():
                status = await syscall(os.stat, path / name)
                assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, mode)


async def test_with_the_writeback_cache_data_is_safe_after_fsync_and_from_o_trunc(tmp_path: Path) -> None:
    async with open_world(tmp_path / "sys", TWO_DISKS) as world:
        path = tmp_path / "mnt"
        async with mounted(Operations(Tree(world.manager, str(path)), writeback_cache=True), path):
            disk = path / "devices/1"

            def write_and_sync() -> None:
                fd = os.open(disk, os.O_RDWR)
                try:
                    for number in range(64):
                        os.pwrite(fd, bytes([number]) * 4096, number * 4096)
                    os.fsync(fd)
                    os.pwrite(fd, b"not synced", 0)
                finally:
                    os.close(fd)

            await syscall(write_and_sync)
            assert bytes(await world.disk.read(63 * 4096, 4096)) == b"\x3f" * 4096
            assert world.cache.barriers.durable >= 64
            await fails(errno.EPERM, os.open, disk, os.O_WRONLY | os.O_TRUNC)
            assert await syscall(pread, disk, 10, 0) == b"not synced"
            assert (await syscall(os.stat, disk)).st_size == 4 * MIB


# Exceptions


@pytest.mark.parametrize(
    ("exception", "number"),
    [
        (Failed("the image cannot be written"), errno.EIO),
        (LcfsError("no", errno=errno.EROFS), errno.EROFS),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("without a number"), errno.EIO),
        (OSError(errno.ENOSYS, "would turn fsync off for ever"), errno.EIO),
        (OSError(530, "beyond what the kernel takes"), errno.EIO),
        (pyfuse3.FUSEError(errno.ESTALE), errno.ESTALE),
    ],
)
async def test_every_exception_has_one_errno(mnt: Mount, exception: Exception, number: int) -> None:
    assert mnt.operations.refusal(exception).errno == number


async def test_a_bug_is_logged_once_a_second_and_the_mount_lives(
    mnt: Mount, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    expected = expect_log("a request failed for a bug of lcfs", at_least=1)

    def broken(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(mnt.world.disk, "write_nowait", broken)
    monkeypatch.setattr(mnt.world.disk, "flush", broken)
    fd = await syscall(os.open, mnt / "devices/1", os.O_RDWR)
    try:
        for _ in range(50):
            await fails(errno.EIO, os.pwrite, fd, b"x", 0)
        await fails(errno.EIO, os.fsync, fd)
        assert 1 <= len(expected.records) <= 5
        assert expected.records[0].exc_info is not None
        assert await syscall(os.pread, fd, 1, 0) == b"\0"
    finally:
        await syscall(os.close, fd)
