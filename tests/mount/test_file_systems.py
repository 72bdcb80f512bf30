# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a file system on a loop device on a disk file, and the same bytes after everything was taken down."""

import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop, pytest.mark.timeout(300)]


def source_tree() -> Path:
    """The standard library: a few thousand files."""
    return Path(sysconfig.get_path("stdlib"))


def copy_tree(target: Path) -> dict[str, str]:
    """Copy the standard library's sources to `target`; the SHA-256 of each file by its name."""
    unwanted = shutil.ignore_patterns("site-packages", "__pycache__", "*.pyc")
    shutil.copytree(source_tree(), target, ignore=unwanted, symlinks=True)
    return digests(source_tree(), list(digests(target)))


def digests(top: Path, names: list[str] | None = None) -> dict[str, str]:
    """The SHA-256 of every regular file below `top`, or of `names`."""
    if names is None:
        names = [str(file.relative_to(top)) for file in top.rglob("*") if file.is_file() and not file.is_symlink()]
    return {name: hashlib.sha256((top / name).read_bytes()).hexdigest() for name in sorted(names)}


def test_the_three_commands_typed_literally(lcfs: Lcfs) -> None:
    """In a directory that holds nothing but the mount point's parent, with the paths of the contract's commands."""
    mnt = lcfs.directory / "mnt" / "lc"
    mnt.mkdir(parents=True)
    commands = [
        "lcfs mount /mnt/lc --cache ssd.img",
        "losetup -f --show /mnt/lc/devices/1",
        "echo 1 > /mnt/lc/caches/1/flush_current_buffer",
    ]
    here = [command.replace("/mnt/lc", str(mnt)) for command in commands]
    said = lcfs.shell("bash", "-c", here[0].replace("lcfs mount", f"{' '.join(lcfs.command())} mount"))
    assert "ssd.img" in said.stdout + said.stderr and "ssd.disk1.img" in said.stdout + said.stderr
    assert (lcfs.directory / "ssd.img").stat().st_size == 256 << 20
    assert (lcfs.directory / "ssd.disk1.img").stat().st_size == 1 << 30
    assert (lcfs.directory / "ssd.img").stat().st_blocks * 512 < 2 << 20, "the image is sparse"
    device = lcfs.losetup(mnt / "devices" / "1")
    with open(device, "wb") as disk:
        disk.write(b"x" * 4096)
        disk.flush()
        os.fsync(disk.fileno())
    lcfs.shell("bash", "-c", here[2])
    assert (mnt / "caches/1/last_flushed_segment_id").read_text() == "1\n"
    lcfs.detach_loop(device)
    lcfs.run("umount", mnt)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("direct_io", [False, True], ids=["buffered", "direct-io"])
def test_a_source_tree_survives_a_remount(lcfs: Lcfs, kind: str, direct_io: bool) -> None:
    mnt = lcfs.mount("--cache-size", "96M")
    device = lcfs.losetup(mnt / "devices/1", direct_io=direct_io)
    lcfs.mkfs(device, kind)
    fs = lcfs.mount_fs(device)
    expected = copy_tree(fs / "tree")
    assert len(expected) > 1000
    lcfs.shell("sync")
    lcfs.umount_fs()
    lcfs.fsck(device, kind)
    lcfs.detach_loop(device)
    lcfs.umount()

    mnt = lcfs.mount()
    device = lcfs.losetup(mnt / "devices/1", direct_io=direct_io)
    lcfs.fsck(device, kind)
    fs = lcfs.mount_fs(device)
    assert digests(fs / "tree") == expected
    lcfs.umount_fs()

    lcfs.store("caches/1/drop_caches", 1)
    assert lcfs.read("caches/1/nr_dirty_caches") == "0"
    lcfs.detach_loop(device)
    lcfs.umount()
    backing = lcfs.losetup(lcfs.directory / "ssd.disk1.img")
    lcfs.fsck(backing, kind)
    fs = lcfs.mount_fs(backing, "-o", "ro")
    assert digests(fs / "tree") == expected, "after drop_caches the backing alone is the disk"
    lcfs.umount_fs()


def test_writing_beside_a_full_cache(lcfs: Lcfs) -> None:
    """A cache of three segments: everything passes through it, migration makes room all the time."""
    mnt = lcfs.mount("--cache-size", "4M")
    device = lcfs.losetup(mnt / "devices/1", direct_io=True)
    lcfs.mkfs(device)
    fs = lcfs.mount_fs(device)
    expected = copy_tree(fs / "tree")
    lcfs.umount_fs()
    lcfs.fsck(device)
    fs = lcfs.mount_fs(device)
    assert digests(fs / "tree") == expected
    lcfs.umount_fs()
    assert int(lcfs.read("caches/1/last_migrated_segment_id")) > 10


def test_disk_file_and_loop_device_show_the_same_bytes(lcfs: Lcfs) -> None:
    """Written through one, read through the other, buffered and direct, in both directions."""
    mnt = lcfs.mount()
    disk = mnt / "devices/1"
    device = lcfs.losetup(disk, direct_io=True)
    for number, (source, target) in enumerate([(str(disk), device), (device, str(disk))] * 2):
        for flags in ([], ["oflag=direct"]):
            content = os.urandom(1 << 20)
            (lcfs.directory / "content").write_bytes(content)
            seek = f"seek={number * 3}"
            lcfs.shell("dd", "if=content", f"of={source}", "bs=1M", seek, "conv=notrunc,fsync", *flags)
            lcfs.shell("dd", f"if={target}", "of=back", "bs=1M", "count=1", f"skip={number * 3}", "iflag=direct")
            assert (lcfs.directory / "back").read_bytes() == content, (source, target, flags)


def test_fio_verifies_what_it_wrote(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--cache-size", "32M")
    load = (
        "--rw=randrw --bsrange=512-64k --bs_unaligned=0 --direct=1 --ioengine=libaio --iodepth=16 --size=96M --io_size=160M "
        "--verify=crc32c --verify_fatal=1 --fsync=100 --output-format=terse"
    )
    command = ["fio", "--name=v", f"--filename={mnt}/devices/1", *load.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=lcfs.directory)
    assert done.returncode == 0, done.stdout + done.stderr + lcfs.log_tail()
