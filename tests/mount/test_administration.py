# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator does while the disks are in use; fio, which verifies what it reads, never notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lcfs.commands.cache import move as cache_move
from lcfs.commands.control import TUNABLES as NAMES
from lcfs.commands.control import Tree
from lcfs.commands.failure import CommandFailed
from lcfs.engine.tunables import TUNABLES
from tests.mount.harness import Lcfs, wait_until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.loop,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed; install it"),
]

MIB = 1 << 20


def size_of(device: str) -> int:
    """Bytes of a block device, as sysfs has them."""
    return int(Path(f"/sys/block/{Path(device).name}/size").read_text()) * 512


class Fio:
    """Random writes to a file or device, each read back and compared, until `end`."""

    def __init__(self, lcfs: Lcfs, target: Path, size: int) -> None:
        words = f"--filename={target} --size={size} --name=verify --thread --rw=randwrite --bs=4k --direct=1".split()
        words += "--ioengine=libaio --iodepth=8 --verify=crc32c --verify_backlog=32 --verify_fatal=1 --fdatasync=64".split()
        words += "--time_based --runtime=200 --output-format=json --randrepeat=0".split()
        self._process = subprocess.Popen(
            ["fio", *words], cwd=lcfs.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
        )
        lcfs.children.append(self._process)

    def require_running(self) -> None:
        """It has not ended, which it would at the first error."""
        if self._process.poll() is not None:
            pytest.fail(f"fio ended: {self._process.communicate()[0]}")

    def end(self) -> None:
        """Let it end; it has met no error."""
        self.require_running()
        os.killpg(self._process.pid, signal.SIGINT)
        said, _ = self._process.communicate(timeout=100)
        (job,) = json.loads(said[said.index("{") : said.rindex("}") + 1])["jobs"]
        assert job["error"] == 0, said


@contextmanager
def verifying(lcfs: Lcfs, target: Path, size: int) -> Iterator[Fio]:
    """fio on `target` while the block runs, and without an error to its end."""
    before = compared(lcfs)
    fio = Fio(lcfs, target, size)
    wait_until(lambda: compared(lcfs) > before + 500, "fio to compare")
    yield fio
    before = compared(lcfs)
    wait_until(lambda: compared(lcfs) > before + 500, "fio to go on")
    fio.end()


def compared(lcfs: Lcfs) -> int:
    """Pieces that were read through the caches there are."""
    rows = [row.split() for path in lcfs.directory.glob("mnt/caches/*/stats") for row in path.read_text().splitlines()]
    return sum(int(row[-1]) for row in rows if row[0] == "0")


def dirty(lcfs: Lcfs, disk: int) -> int:
    """Lines not on the backing yet."""
    return int(lcfs.read(f"block/{disk}/nr_dirty_caches"))


def may_resize_ext4() -> bool:
    """Whether CAP_SYS_RESOURCE, which ext4 asks for before it grows a mounted file system, is ours."""
    words = Path("/proc/self/status").read_text().split()
    return bool(int(words[words.index("CapEff:") + 1], 16) >> 24 & 1)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_file_system_grows_with_its_disk_while_it_is_used(lcfs: Lcfs, kind: str) -> None:
    """ext4 itself is only made larger while mounted where that is allowed, else once it is unmounted."""
    small, large = (384, 640) if kind == "xfs" else (64, 320)
    online = kind == "xfs" or may_resize_ext4()
    mnt = lcfs.mount("--device", f"1=a.img,size={small}M", "--cache-size", "64M")
    lcfs.store("caches/1/update_interval", 0)
    loop = lcfs.losetup(mnt / "devices/1", direct_io=True)
    lcfs.mkfs(loop, kind)
    fs = lcfs.mount_fs(loop)
    (fs / "old").write_bytes(content := os.urandom(MIB))
    with verifying(lcfs, fs / "data", 24 * MIB) as fio:
        wait_until(lambda: dirty(lcfs, 1) > 500, "lines to be dirty")
        said = lcfs.run("device", "grow", "-m", mnt, "1", f"{large}M")
        assert said.stdout == f"disk 1: {large * MIB} bytes\n"
        assert (mnt / "devices/1").stat().st_size == size_of(loop) == large * MIB
        assert (lcfs.directory / "a.img").stat().st_size == large * MIB
        if online:
            lcfs.shell(*(["xfs_growfs", fs] if kind == "xfs" else ["resize2fs", loop]))
            assert shutil.disk_usage(fs).total > (small + 100) * MIB
            lcfs.shell("fallocate", "-l", f"{small}M", fs / "more")
        fio.require_running()
    lcfs.umount_fs()
    if not online:
        lcfs.fsck(loop, kind)
        lcfs.shell("resize2fs", "-f", loop)
    lcfs.detach_loop(loop)
    lcfs.umount()

    mnt = lcfs.mount()
    assert lcfs.read("block/1/size") == str(large * MIB)
    loop = lcfs.losetup(mnt / "devices/1", direct_io=True)
    lcfs.fsck(loop, kind)
    fs = lcfs.mount_fs(loop)
    assert (fs / "old").read_bytes() == content
    assert shutil.disk_usage(fs).total > (small + 100) * MIB


def test_a_backing_that_was_made_longer_and_what_is_refused(lcfs: Lcfs) -> None:
    """Behind lcfs's back a file, and a block device."""
    lcfs.shell("truncate", "-s", "8M", "b.raw")
    block = lcfs.losetup("b.raw")
    mnt = lcfs.mount("--device", "1=a.img,size=8M", "--device", f"2={block},cache=0")
    with open(mnt / "devices/2", "r+b") as disk:
        lcfs.shell("truncate", "-s", "12M", "b.raw")
        lcfs.shell("losetup", "-c", block)
        lcfs.run("device", "grow", "-m", mnt, "2")
        assert os.fstat(disk.fileno()).st_size == 12 * MIB
        assert os.pwrite(disk.fileno(), b"end", 12 * MIB - 3) == 3
        os.fsync(disk.fileno())
    assert Path(block).read_bytes()[-3:] == b"end"
    for words, sentence in (
        (("1", "4M"), f"disk 1 has {8 * MIB} bytes and cannot shrink to {4 * MIB}; give a larger size"),
        (("2", "16M"), f"less than the {16 * MIB} asked for; make it larger first"),
        (("9", "16M"), "has no disk 9"),
    ):
        done = lcfs.run("device", "grow", "-m", mnt, *words, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert (lcfs.read("block/1/size"), lcfs.read("block/2/size")) == (str(8 * MIB), str(12 * MIB))
    lcfs.umount()


def test_a_disk_is_renamed_under_load_and_keeps_its_name(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=16M", "--device", "2=b.img,size=8M,cache=0")
    with verifying(lcfs, mnt / "devices/1", 16 * MIB):
        wait_until(lambda: dirty(lcfs, 1) > 100, "lines to be dirty")
        lcfs.run("device", "rename", "-m", mnt, "1", "a new name")
        lcfs.run("device", "rename", "-m", mnt, "2", "été")
        assert lcfs.read("block/1/name") == "a new name"
        for name in ("", "a/b", "n" * 65, "\udcff", "two\nlines"):
            done = lcfs.run("device", "rename", "-m", mnt, "1", name, check=False)
            assert done.returncode == 1 and done.stderr.count("\n") == 1, (name, done.stderr)
        assert lcfs.read("block/1/name") == "a new name"
    lcfs.kill9()
    lcfs.shell("umount", mnt)
    lcfs.mount()
    assert (lcfs.read("block/1/name"), lcfs.read("block/2/name")) == ("a new name", "été")


def nbd_disk(lcfs: Lcfs, size: int) -> tuple[Path, subprocess.Popen[bytes]]:
    """A file that takes 20 ms a write: nbdkit's delay filter through nbdfuse."""
    slow = lcfs.directory / "slow"
    slow.write_bytes(b"")
    lcfs.shell("truncate", "-s", str(size), "a.raw")
    command = ["nbdfuse", str(slow), "--command", "nbdkit", "-s", "--filter=delay", "file", "a.raw", "delay-write=20ms"]
    nbd = subprocess.Popen(command, cwd=lcfs.directory)
    wait_until(lambda: slow.stat().st_size == size, "nbdfuse to serve")
    return slow, nbd


def test_a_cache_moves_to_another_image_under_fio(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=32M", "--device", "2=b.img,size=8M", "--cache-size", "32M")
    lcfs.store("caches/1/update_interval", 0)
    lcfs.store("caches/1/nr_max_batched_migration", 7)
    (lcfs.directory / "two").write_bytes(content := os.urandom(8 * MIB))
    lcfs.shell("dd", "if=two", f"of={mnt}/devices/2", "bs=64k", "conv=notrunc", "status=none")
    loop = lcfs.losetup(mnt / "devices/1", direct_io=True)
    with verifying(lcfs, Path(loop), 24 * MIB) as fio:
        said = lcfs.run("cache", "move", "-m", mnt, "1", "new.img", "--size", "48M").stdout
        fio.require_running()
        assert said.startswith(f"cache 1 is cache 2 now, on {lcfs.directory}/new.img")
        assert os.listdir(mnt / "caches") == ["2"]
        assert lcfs.read("block/1/cache_id") == lcfs.read("block/2/cache_id") == "2"
        assert lcfs.read("caches/2/nr_max_batched_migration") == "7"
        assert (mnt / "devices/2").read_bytes() == content
    expected = (mnt / "devices/1").read_bytes()
    lcfs.detach_loop(loop)
    lcfs.umount()
    (lcfs.directory / "ssd.img").unlink()
    mnt = lcfs.mount("--cache", "new.img")
    assert lcfs.read("block/1/cache_id") == lcfs.read("block/2/cache_id") == "2"
    assert (mnt / "devices/1").read_bytes() == expected
    assert (mnt / "devices/2").read_bytes() == content


def test_ctrl_c_leaves_a_cache_where_it_is(lcfs: Lcfs) -> None:
    slow, nbd = nbd_disk(lcfs, 16 * MIB)
    try:
        mnt = lcfs.mount("--device", f"1={slow}")
        lcfs.store("caches/1/update_interval", 0)
        disk = os.open(mnt / "devices/1", os.O_RDWR)
        for line in range(0, 2000, 2):
            os.pwrite(disk, os.urandom(4096), line * 4096)
        os.close(disk)
        expected = (mnt / "devices/1").read_bytes()
        move = lcfs.start("cache", "move", "-m", mnt, "1", "new.img")
        wait_until(lambda: 0 < dirty(lcfs, 1) < 1000, "the move to be under way")
        os.killpg(move.pid, signal.SIGINT)
        _, said = move.communicate(timeout=60)
        assert (move.returncode, said) == (130, "lcfs cache move: called off; the disks stay on cache 1\n")
        assert lcfs.read("block/1/cache_id") == "1"
        assert os.listdir(mnt / "caches") == ["1"]
        assert not (lcfs.directory / "new.img").exists()
        assert (mnt / "devices/1").read_bytes() == expected
    finally:
        lcfs.run("umount", lcfs.directory / "mnt", check=False)
        lcfs.shell("umount", slow, check=False)
        nbd.wait(timeout=30)


@pytest.mark.parametrize("error", [CommandFailed("no"), KeyboardInterrupt()], ids=["a failure", "Ctrl-C"])
def test_disks_that_had_moved_go_back(lcfs: Lcfs, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The second disk cannot be detached, or its detach is called off, when the first is on the new image already."""
    mnt = lcfs.mount("--device", "1=a.img,size=8M", "--device", "2=b.img,size=8M")
    (lcfs.directory / "one").write_bytes(content := os.urandom(MIB))
    lcfs.shell("dd", "if=one", f"of={mnt}/devices/1", "conv=notrunc", "status=none")

    def drain(tree: Tree, verb: str, disk: int, *, late: bool = False) -> None:
        if disk == 2:
            assert lcfs.read("block/1/cache_id") == "2"
            lcfs.shell("dd", "if=one", f"of={mnt}/devices/1", "seek=2048", "conv=notrunc", "status=none")
            raise error
        tree.send(verb, disk)

    monkeypatch.setattr(cache_move, "drain", drain)
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(CommandFailed, match="; the disks stay on cache 1") as failure:
            cache_move.move(Tree(str(mnt)), 1, str(lcfs.directory / "new.img"), None)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), former, strict=True):
            signal.signal(number, handler)
    assert failure.value.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert lcfs.read("block/1/cache_id") == lcfs.read("block/2/cache_id") == "1"
    assert os.listdir(mnt / "caches") == ["1"]
    assert not (lcfs.directory / "new.img").exists()
    assert (mnt / "devices/1").read_bytes()[:MIB] == content == (mnt / "devices/1").read_bytes()[MIB : 2 * MIB]


def test_ctrl_c_leaves_a_disk_as_long_as_it_is(lcfs: Lcfs) -> None:
    """Its backing hangs."""
    slow, nbd = nbd_disk(lcfs, 16 * MIB)
    try:
        mnt = lcfs.mount("--device", f"1={slow},size=8M")
        os.kill(nbd.pid, signal.SIGSTOP)
        try:
            grow = lcfs.start("device", "grow", "-m", mnt, "1", "12M")
            wait_until(lambda: len(list(Path(f"/proc/{grow.pid}/task").iterdir())) > 1, "the growth to be under way")
            os.killpg(grow.pid, signal.SIGINT)
            _, said = grow.communicate(timeout=60)
        finally:
            os.kill(nbd.pid, signal.SIGCONT)
        assert (grow.returncode, said) == (130, "lcfs device grow: disk 1 keeps its size\n")
        assert lcfs.read("block/1/size") == str(8 * MIB)
        lcfs.run("device", "grow", "-m", mnt, "1")
        assert (mnt / "devices/1").stat().st_size == 16 * MIB
    finally:
        lcfs.run("umount", lcfs.directory / "mnt", check=False)
        lcfs.shell("umount", slow, check=False)
        nbd.wait(timeout=30)


def test_with_the_writeback_cache_the_command_says_what_did_not_follow(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=8M", "-o", "writeback_cache")
    with open(mnt / "devices/1", "r+b"):
        done = lcfs.run("device", "grow", "-m", mnt, "1", "12M", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "keeps its size until lcfs is mounted anew (writeback_cache)" in done.stderr
    lcfs.umount()
    assert (lcfs.mount() / "devices/1").stat().st_size == 12 * MIB


def test_what_cannot_move(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=8M")
    (lcfs.directory / "text").write_text("not an image")
    for image in ("text", "ssd.img", "a.img", "nowhere/new.img"):
        done = lcfs.run("cache", "move", "-m", mnt, "1", image, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, (image, done.stderr)
    assert "has no cache 3" in lcfs.run("cache", "move", "-m", mnt, "3", "new.img", check=False).stderr
    assert not (lcfs.directory / "new.img").exists()
    assert os.listdir(mnt / "caches") == ["1"] and lcfs.read("block/1/cache_id") == "1"


def test_tunables_that_move() -> None:
    assert list(NAMES) == list(TUNABLES)


def test_everything_in_one_run(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=32M", "--cache-size", "32M")
    loop = lcfs.losetup(mnt / "devices/1", direct_io=True)
    with verifying(lcfs, Path(loop), 16 * MIB) as fio:
        for words in (
            ("device", "detach", "1"),
            ("device", "attach", "1", "1"),
            ("device", "rename", "1", "busy"),
            ("device", "grow", "1", "48M"),
            ("device", "create", "2", "b.img", "--size", "8M", "--cache", "1"),
            ("cache", "move", "1", "new.img"),
            ("device", "grow", "1", "64M"),
            ("device", "remove", "2"),
            ("device", "detach", "1"),
            ("device", "attach", "1", "2"),
        ):
            lcfs.run(*words[:2], "-m", mnt, *words[2:])
            fio.require_running()
    assert (lcfs.read("block/1/name"), lcfs.read("block/1/cache_id")) == ("busy", "2")
    assert size_of(loop) == 64 * MIB
    expected = (mnt / "devices/1").read_bytes()
    lcfs.detach_loop(loop)
    lcfs.umount()
    mnt = lcfs.mount("--cache", "new.img")
    assert (mnt / "devices/1").read_bytes() == expected
