# SPDX-License-Identifier: GPL-2.0-or-later
"""Several caches and disks in one mount, on files and on block devices, and disks that are not there."""

import os
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop, pytest.mark.timeout(300)]


def fill(path: Path, offset: int, content: bytes) -> None:
    """Write and fsync."""
    file = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(file, content, offset) == len(content)
        os.fsync(file)
    finally:
        os.close(file)


def content_of(path: Path, offset: int, length: int) -> bytes:
    """What a reader sees."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, length, offset)
    finally:
        os.close(file)


def test_two_caches_and_three_disks_on_files_and_block_devices(lcfs: Lcfs) -> None:
    """Disks 1 and 2 share cache 1, an image file; disk 3 and cache 2 are loop block devices."""
    for name, size in (("fast.block", 8), ("slow.block", 32)):
        lcfs.shell("truncate", "-s", f"{size}M", name)
    fast, slow = lcfs.losetup("fast.block"), lcfs.losetup("slow.block")
    lcfs.run("cache", "format", fast)
    devices = ["--device", "1=a.img,size=32M", "--device", "2=b.img,size=16M,name=second", "--device", f"3={slow},cache=2"]
    mnt = lcfs.mount("--cache", "1=ssd.img", "--cache", f"2={fast}", "--cache-size", "8M", *devices)
    contents = {number: os.urandom(6 << 20) for number in (1, 2, 3)}
    for number, content in contents.items():
        fill(mnt / f"devices/{number}", 4096 * number, content)
    assert lcfs.read("block/1/cache_id") == lcfs.read("block/2/cache_id") == "1"
    assert lcfs.read("block/3/cache_id") == "2"
    assert lcfs.read("block/2/name") == "second"
    assert lcfs.read("block/3/device_no") == f"{os.major(os.stat(slow).st_rdev)}:{os.minor(os.stat(slow).st_rdev)}"
    lcfs.umount()

    mnt = lcfs.mount("--cache", "1=ssd.img", "--cache", f"2={fast}")
    for number, content in contents.items():
        assert content_of(mnt / f"devices/{number}", 4096 * number, len(content)) == content, number
    for cache in (1, 2):
        lcfs.store(f"caches/{cache}/drop_caches", 1)
    lcfs.umount()
    for backing, number in ((lcfs.directory / "a.img", 1), (lcfs.directory / "b.img", 2), (Path(slow), 3)):
        assert content_of(backing, 4096 * number, len(contents[number])) == contents[number], backing


def test_orphaned_lines_are_kept_and_migrate_when_the_disk_is_back(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--cache-size", "16M", "--device", "1=a.img,size=32M", "--device", "2=b.img,size=32M")
    lcfs.store("caches/1/update_interval", 0)
    kept = os.urandom(1 << 20)
    fill(mnt / "devices/2", 8192, kept)
    dirty = lcfs.read("block/2/nr_dirty_caches")
    assert dirty == "256"
    lcfs.umount()
    away = lcfs.directory / "elsewhere.img"
    (lcfs.directory / "b.img").rename(away)

    said = lcfs.run("mount", mnt, "--cache", "ssd.img", "--pid-file", lcfs.pid_file(), "--log", lcfs.log_file())
    assert "disk 2" in said.stdout + said.stderr and "missing" in said.stdout + said.stderr
    assert lcfs.read("block/2/state").startswith("missing")
    assert lcfs.read("block/2/nr_dirty_caches") == dirty
    assert not (mnt / "devices/2").exists()
    # the ring turns over several times with the orphans in it
    other = os.urandom(4 << 20)
    for turn in range(12):
        fill(mnt / "devices/1", turn * 1024, other)
    assert lcfs.read("block/2/nr_dirty_caches") == dirty
    with pytest.raises(OSError) as refusal:
        lcfs.store("caches/1/drop_caches", 1)
    assert refusal.value.errno == 19
    assert lcfs.read("block/1/nr_dirty_caches") == "0"
    lcfs.umount()

    away.rename(lcfs.directory / "b.img")
    mnt = lcfs.mount()
    assert lcfs.read("block/2/state") == "running"
    assert content_of(mnt / "devices/2", 8192, len(kept)) == kept
    lcfs.store("caches/1/drop_caches", 1)
    assert lcfs.read("block/2/nr_dirty_caches") == "0"
    lcfs.umount()
    assert content_of(lcfs.directory / "b.img", 8192, len(kept)) == kept


def test_a_disk_without_a_cache_passes_straight_through(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=8M,cache=0")
    fill(mnt / "devices/1", 12345, b"straight through")
    assert lcfs.read("block/1/cache_id") == "0"
    assert content_of(lcfs.directory / "a.img", 12345, 16) == b"straight through"
    assert lcfs.read("caches/1/nr_dirty_caches") == "0"
