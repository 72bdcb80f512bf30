# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores on real files. No mock clock here: worker threads take real time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from uuid import UUID

import pytest
import trio

from lcfs.engine.block_store import BlockStore, FlushFailed, Label
from lcfs.engine.errors import AlreadyThere, InUse, LcfsError, NoSpace, NoSuchThing, NotPermitted, Unsuitable
from lcfs.engine.file_store import IOV_MAX, LABEL_STAMP, LABEL_UUID, FileStorage
from lcfs.engine.manager import open_manager
from lcfs.engine.spec import CacheSpec, MountSpec
from tests.engine.bench import MIB

STORAGE = FileStorage()


async def read(store: BlockStore, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    await store.readinto(offset, memoryview(buffer))
    return bytes(buffer)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file of 1 MiB of zeros."""
    file = tmp_path / "file"
    file.write_bytes(bytes(MIB))
    return str(file)


def has_attributes(path: str) -> bool:
    try:
        os.setxattr(path, "user.lcfs.try", b"")
    except OSError:
        return False
    return True


# Reading and writing


async def test_reads_and_writes_of_any_alignment(path: str) -> None:
    store = await STORAGE.open(path)
    assert (store.name, store.size) == (path, MIB)
    await store.write(10, [b"ab", memoryview(b"cd"), bytearray(b"ef")])
    await store.write_extents([(5000, [b"x"]), (9000, [b"y", b"z"])])
    assert await read(store, 9, 8) == b"\0abcdef\0"
    assert await read(store, 5000, 1) == b"x"
    assert await read(store, 9000, 2) == b"yz"
    await store.flush()
    await store.discard(0, 4096)
    await store.close()
    assert Path(path).read_bytes()[10:16] == b"abcdef"
    assert os.stat(path).st_size == MIB


async def test_several_reads_at_once(path: str) -> None:
    store = await STORAGE.open(path)
    await store.write(5000, [b"abc"])
    parts = [bytearray(2), bytearray(3)]
    await store.readinto_extents([(5001, memoryview(parts[0])), (4999, memoryview(parts[1]))])
    assert parts == [b"bc", b"\0ab"]
    with pytest.raises(OSError, match="ends at byte"):
        await store.readinto_extents([(0, memoryview(parts[0])), (MIB - 1, memoryview(parts[1]))])
    await store.close()


async def test_a_write_with_its_flush(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await STORAGE.open(path)
    await store.write_durably([(10, [b"ab"]), (20, [b"c"])])
    assert await read(store, 10, 11) == b"ab" + bytes(8) + b"c"

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "medium error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(FlushFailed, match="medium error"):
            await store.write_durably([(10, [b"xy"])])
    await store.flush()  # the error was told; what to make of it is the caller's
    with pytest.raises(OSError) as caught:
        await store.write_durably([(1 << 62, [b"x"])])
    assert not isinstance(caught.value, FlushFailed)
    await store.close()


async def test_more_buffers_than_one_system_call_takes(path: str) -> None:
    store = await STORAGE.open(path)
    buffers = [bytes([at % 251]) * (at % 7) for at in range(2 * IOV_MAX + 10)]
    await store.write(3, buffers)
    content = b"".join(buffers)
    assert await read(store, 3, len(content)) == content
    await store.close()


async def test_nowait_reads_what_is_cached_or_says_no(path: str) -> None:
    store = await STORAGE.open(path)
    await store.write(0, [b"here"])
    buffer = bytearray(4)
    if store.readinto_nowait(0, memoryview(buffer)):
        assert buffer == b"here"
    assert not store.readinto_nowait(MIB - 2, memoryview(buffer))
    await store.close()
    assert not store.readinto_nowait(0, memoryview(buffer))


async def test_a_read_that_ends_early_is_an_error(path: str) -> None:
    store = await STORAGE.open(path)
    for offset, length in ((MIB - 1, 2), (MIB, 1), (5 * MIB, 1)):
        with pytest.raises(OSError, match="the file ends at byte") as caught:
            await read(store, offset, length)
        assert caught.value.errno == errno.EIO
    os.truncate(path, 100)
    with pytest.raises(OSError, match="the file ends at byte 100"):
        await read(store, 90, 20)
    await store.close()


async def test_a_closed_store_is_not_another_file(path: str, tmp_path: Path) -> None:
    store = await STORAGE.open(path)
    await store.close()
    with (tmp_path / "other").open("wb"):
        for call in (store.write(0, [b"x"]), store.readinto(0, memoryview(bytearray(1))), store.flush()):
            with pytest.raises(OSError, match="is closed") as caught:
                await call
            assert caught.value.errno == errno.EBADF
    assert (tmp_path / "other").read_bytes() == b""


async def test_a_write_to_a_read_only_store_fails(path: str) -> None:
    store = await STORAGE.open(path, readonly=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await store.write(0, [b"x"])
    await store.close()


# Labels


async def test_a_label_is_two_attributes_and_comes_back(path: str) -> None:
    if not has_attributes(path):
        pytest.skip(reason="the file system of the temporary directory has no user attributes")
    store = await STORAGE.open(path)
    assert await store.read_label() is None
    label = Label(UUID("01234567-89ab-cdef-0123-456789abcdef"), 0x1122334455667788)
    await store.write_label(label)
    assert await store.read_label() == label
    assert os.getxattr(path, LABEL_UUID) == b"01234567-89ab-cdef-0123-456789abcdef"
    assert os.getxattr(path, LABEL_STAMP) == b"8877665544332211"
    await store.close()


@pytest.mark.parametrize(
    ("uuid", "stamp"),
    [
        (b"", b""),
        (b"no uuid", b"0" * 16),
        (b"\xff" * 36, b"0" * 16),
        (b"0" * 32, b"12"),
        (b"0" * 32, b"zz" * 8),
        (b"0" * 32, b"\xff" * 16),
    ],
)
async def test_a_label_that_is_none_counts_as_none(uuid: bytes, stamp: bytes, path: str) -> None:
    if not has_attributes(path):
        pytest.skip(reason="the file system of the temporary directory has no user attributes")
    os.setxattr(path, LABEL_UUID, uuid)
    os.setxattr(path, LABEL_STAMP, stamp)
    store = await STORAGE.open(path)
    assert await store.read_label() is None
    await store.close()


async def test_a_file_system_without_attributes_carries_no_label(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    store = await STORAGE.open(path)
    await store.write_label(Label(UUID(int=1), 1))
    assert await store.read_label() is None
    await store.close()


# Who it is


async def test_device_number_and_load(path: str) -> None:
    store = await STORAGE.open(path)
    number = os.stat(path).st_dev
    assert store.device_number() == f"{os.major(number)}:{os.minor(number)}"
    busy = store.busy_ms()
    assert busy is None or busy >= 0
    await store.close()


async def test_a_file_is_the_same_under_all_its_names(path: str, tmp_path: Path) -> None:
    link, hard, other = tmp_path / "link", tmp_path / "hard", tmp_path / "other"
    link.symlink_to(path)
    os.link(path, hard)
    other.write_bytes(b"x")
    assert STORAGE.canonical(str(link)) == path == STORAGE.canonical(f"{tmp_path}/x/../file")
    assert STORAGE.same(path, str(link))
    assert STORAGE.same(path, str(hard))
    assert not STORAGE.same(path, str(other))
    assert not STORAGE.same(path, str(tmp_path / "nothing"))
    assert STORAGE.same(str(tmp_path / "nothing"), f"{tmp_path}/x/../nothing")
    places = [await STORAGE.look(str(name)) for name in (path, link, hard)]
    assert len({place.identity for place in places}) == 1
    assert all(place.exists for place in places)
    nothing = await STORAGE.look(str(tmp_path / "nothing"))
    assert not nothing.exists
    assert nothing.identity not in {place.identity for place in places}


async def test_only_a_file_without_content_is_blank(path: str, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(MIB)
    for name, blank in ((str(sparse), True), (path, False)):
        store = await STORAGE.open(name)
        assert await store.is_blank() is blank
        await store.close()


# Opening


async def test_a_file_that_is_open_is_in_use(path: str, tmp_path: Path) -> None:
    store = await STORAGE.open(path)
    os.link(path, tmp_path / "hard")
    for name in (path, str(tmp_path / "hard")):
        with pytest.raises(InUse, match="is in use") as caught:
            await STORAGE.open(name)
        assert caught.value.errno == errno.EBUSY
    await store.close()
    await (await STORAGE.open(path)).close()


async def test_a_file_that_another_process_has_locked_is_in_use(path: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); input()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(InUse):
            await STORAGE.open(path)
    finally:
        holder.communicate(b"\n", timeout=10)
    await (await STORAGE.open(path)).close()


@pytest.mark.parametrize(
    ("kind", "error", "number", "sentence"),
    [
        ("missing", NoSuchThing, errno.ENOENT, "does not exist; create it or correct the path"),
        ("dangling", NoSuchThing, errno.ENOENT, "does not exist"),
        ("directory", Unsuitable, errno.EINVAL, "is a directory; give a regular file or a block device"),
        ("fifo", Unsuitable, errno.EINVAL, "is a special file"),
        ("device", Unsuitable, errno.EINVAL, "is a special file"),
        ("empty", Unsuitable, errno.EINVAL, "is empty; remove it and lcfs creates it"),
        ("readonly", Unsuitable, errno.EACCES, "is read-only; make it writable, or mount with -o ro"),
        ("below a file", Unsuitable, errno.ENOTDIR, "cannot be used: Not a directory"),
        ("loop", Unsuitable, errno.ELOOP, "cannot be used: Too many levels of symbolic links"),
        ("long", Unsuitable, errno.ENAMETOOLONG, "cannot be used: File name too long"),
    ],
)
async def test_what_cannot_be_opened(kind: str, error: type[LcfsError], number: int, sentence: str, tmp_path: Path) -> None:
    thing = tmp_path / "thing"
    if kind == "dangling":
        thing.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        thing.mkdir()
    elif kind == "fifo":
        os.mkfifo(thing)
    elif kind == "device":
        thing = Path("/dev/null")
    elif kind == "empty":
        thing.touch()
    elif kind == "readonly":
        thing.write_bytes(b"x" * 512)
        thing.chmod(0o444)
    elif kind == "below a file":
        (tmp_path / "file").touch()
        thing = tmp_path / "file" / "below"
    elif kind == "loop":
        thing.symlink_to(thing)
    elif kind == "long":
        thing = tmp_path / ("x" * 300)
    with pytest.raises(error, match=sentence) as caught:
        await STORAGE.open(str(thing))
    assert str(thing) in str(caught.value)
    assert caught.value.errno == number


async def test_a_read_only_file_can_be_opened_for_reading(path: str) -> None:
    os.chmod(path, 0o400)
    store = await STORAGE.open(path, readonly=True)
    assert await read(store, 0, 10) == bytes(10)
    await store.close()


# Creating


async def test_a_new_file_is_sparse_private_locked_and_durable(tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    store = await STORAGE.create(path, 10 << 30)
    status = os.stat(path)
    assert (status.st_size, status.st_blocks, stat.S_IMODE(status.st_mode)) == (10 << 30, 0, 0o600)
    assert store.size == 10 << 30
    with pytest.raises(InUse):
        await STORAGE.open(path)
    await store.write(5, [b"x"])
    await store.close()
    await STORAGE.remove(path)
    assert not STORAGE.exists(path)


async def test_a_file_that_is_filled_first_appears_complete(tmp_path: Path) -> None:
    path = str(tmp_path / "new")

    async def fill(store: BlockStore) -> None:
        await store.write(0, [b"filled"])

    await (await STORAGE.create(path, 4096, fill)).close()
    assert Path(path).read_bytes()[:6] == b"filled"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), ValueError("fill"), KeyboardInterrupt()])
async def test_a_file_whose_filling_fails_is_not_there(failure: BaseException, tmp_path: Path) -> None:
    async def fill(store: BlockStore) -> None:
        raise failure

    with pytest.raises((NoSpace, ValueError, KeyboardInterrupt)):
        await STORAGE.create(str(tmp_path / "new"), 4096, fill)
    assert list(tmp_path.iterdir()) == []


async def test_a_creation_that_is_called_off_leaves_nothing(tmp_path: Path) -> None:
    async def fill(store: BlockStore) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0.05):
        await STORAGE.create(str(tmp_path / "new"), 4096, fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["file", "directory", "dangling", "link"])
async def test_nothing_that_is_there_is_created_over(there: str, tmp_path: Path) -> None:
    thing, target = tmp_path / "thing", tmp_path / "target"
    if there == "file":
        thing.write_bytes(b"content")
    elif there == "directory":
        thing.mkdir()
    elif there == "dangling":
        thing.symlink_to(target)
    else:
        target.write_bytes(b"content")
        thing.symlink_to(target)
    assert STORAGE.exists(str(thing))
    with pytest.raises(AlreadyThere, match="already exists; give another path"):
        await STORAGE.create(str(thing), 4096)
    assert not target.exists() or target.read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "size", "error"),
    [
        ("missing/new", 4096, NoSuchThing),
        ("file/new", 4096, NotPermitted),
        ("x" * 300, 4096, NotPermitted),
        ("new", 1 << 62, NoSpace),
    ],
)
async def test_what_cannot_be_created(name: str, size: int, error: type[LcfsError], path: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error) as caught:
        await STORAGE.create(str(tmp_path / name), size)
    assert str(tmp_path / name.split("/")[0]) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


async def test_a_name_that_another_takes_meanwhile_is_theirs(tmp_path: Path) -> None:
    thing = tmp_path / "new"

    async def fill(store: BlockStore) -> None:
        thing.write_bytes(b"theirs")

    with pytest.raises(LcfsError, match="exists"):
        await STORAGE.create(str(thing), 4096, fill)
    assert thing.read_bytes() == b"theirs"


@pytest.mark.parametrize(
    "line",
    [
        "format_cache_device '{}\0x'",
        "create 2 '{}\0x' 1M",
        "resume_cache '{}\0'",
        "create 2 '{}/\udcff' 1M",
        "create 2 {}//./x 1M name=a\0",
    ],
)
async def test_a_path_that_no_file_system_has_is_refused_or_works(line: str, tmp_path: Path) -> None:
    spec = MountSpec((CacheSpec(str(tmp_path / "ssd.img")),), cache_size=2 * MIB, default_disk=False)
    async with open_manager(spec, FileStorage()) as manager:
        manager.cursor = 9
        try:
            await manager.message(line.format(tmp_path))
        except LcfsError as exc:
            assert exc.errno
        else:
            assert "\0" not in line


# System calls that do half of it, or refuse


async def test_a_write_that_the_system_takes_in_parts_is_written_whole(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev

    def a_few_bytes(fd: int, buffers: list[memoryview], offset: int) -> int:
        return pwritev(fd, [buffers[0][:5]], offset)

    store = await STORAGE.open(path)
    monkeypatch.setattr(os, "pwritev", a_few_bytes)
    await store.write(7, [b"abcdefghijkl", b"", b"mno", b"pqrstuvwxyz"])
    assert await read(store, 7, 26) == b"abcdefghijklmnopqrstuvwxyz"
    await store.close()


async def test_a_file_system_that_knows_no_nowait_is_asked_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def refuse(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        nonlocal asked
        asked += 1
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    store = await STORAGE.open(path)
    monkeypatch.setattr(os, "preadv", refuse)
    for _ in range(3):
        assert not store.readinto_nowait(0, memoryview(bytearray(4)))
    assert asked == 1
    await store.close()


async def test_a_flush_that_fails_is_told_once_and_to_who_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fdatasync = os.fdatasync
    errors = [OSError(errno.EIO, "Input/output error")]

    def sync(fd: int) -> None:
        if errors:
            raise errors.pop()
        fdatasync(fd)

    store = await STORAGE.open(path)
    monkeypatch.setattr(os, "fdatasync", sync)
    with pytest.raises(OSError, match="Input/output error"):
        await store.flush()
    await store.flush()
    await store.close()


async def test_a_flush_whose_waiter_left_tells_the_next_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fdatasync = os.fdatasync
    entered, go = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        entered.set()
        if not go.is_set():
            go.wait(10)
            raise OSError(errno.EIO, "Input/output error")
        fdatasync(fd)

    store = await STORAGE.open(path)
    monkeypatch.setattr(os, "fdatasync", sync)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        await trio.to_thread.run_sync(entered.wait)
        nursery.cancel_scope.cancel()
    go.set()
    with pytest.raises(OSError, match="Input/output error"):
        await store.flush()
    await store.flush()
    await store.close()


async def test_where_files_without_a_name_are_unknown_a_file_is_created_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_open = os.open

    def without_tmpfile(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return system_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", without_tmpfile)
    path = str(tmp_path / "new")
    store = await STORAGE.create(path, MIB)
    assert os.stat(path).st_size == MIB
    await store.close()
    with pytest.raises(AlreadyThere):
        await STORAGE.create(path, MIB)
    with pytest.raises(NoSpace):
        await STORAGE.create(str(tmp_path / "large"), 1 << 62)

    async def fill(store: BlockStore) -> None:
        raise ValueError("fill")

    with pytest.raises(ValueError, match="fill"):
        await STORAGE.create(str(tmp_path / "other"), MIB, fill)
    assert sorted(os.listdir(tmp_path)) == ["new"]


@pytest.mark.parametrize(
    ("number", "error", "sentence"),
    [
        (errno.EBUSY, InUse, "is in use by the system"),
        (errno.EACCES, Unsuitable, "is read-only here"),
        (errno.EROFS, Unsuitable, "is read-only here"),
        (errno.EIO, Unsuitable, "cannot be opened: Input/output error"),
    ],
)
async def test_what_the_system_does_not_open(
    number: int, error: type[LcfsError], sentence: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(error, match=sentence) as caught:
        await STORAGE.open(path)
    assert caught.value.errno == number


async def test_a_path_inside_the_own_mount_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Serving such a request would wait for itself."""
    spec = MountSpec((CacheSpec(str(tmp_path / "ssd.img")),), cache_size=2 * MIB, default_disk=False)
    async with open_manager(spec, FileStorage()) as manager:
        inside = tmp_path / "inside"
        inside.write_bytes(bytes(4 * MIB))
        manager.cursor = 9
        manager.own_device = os.stat(tmp_path).st_dev
        for line in ("format_cache_device {}", "resume_cache {}", "create 2 {}", "create 2 {}.new 1M"):
            with pytest.raises(Unsuitable, match="is inside this mount; give a file elsewhere"):
                await manager.message(line.format(inside))
        assert sorted(os.listdir(tmp_path)) == ["inside", "ssd.img"]
        manager.own_device = None
        await manager.message(f"create 2 {inside}")


# Block devices


@pytest.mark.loop
async def test_a_block_device_is_held_exclusively_and_has_its_own_size(path: str, tmp_path: Path) -> None:
    device = subprocess.run(["losetup", "-f", "--show", path], check=True, capture_output=True, text=True).stdout.strip()
    try:
        store = await STORAGE.open(device)
        assert store.size == MIB
        number = os.stat(device).st_rdev
        assert store.device_number() == f"{os.major(number)}:{os.minor(number)}"
        assert await store.read_label() is None
        await store.write_label(Label(UUID(int=1), 1))
        assert await store.read_label() is None
        assert not await store.is_blank()
        await store.write(4096, [b"block"])
        await store.flush()
        with pytest.raises(InUse, match="is in use"):
            await STORAGE.open(device)
        os.mknod(tmp_path / "node", 0o600 | stat.S_IFBLK, number)
        assert STORAGE.same(device, str(tmp_path / "node"))
        await store.close()
        again = await STORAGE.open(device)
        assert await read(again, 4096, 5) == b"block"
        await again.close()
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_the_lock_is_the_one_other_programs_see(path: str) -> None:
    async def held() -> None:
        store = await STORAGE.open(path)
        with open(path, "rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await store.close()
        with open(path, "rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    trio.run(held)
