# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs umount --drain` and `--wait`."""

from __future__ import annotations

import os
import signal

import pytest

from lcfs.commands.mounts import mount_at
from tests.commands.bytes_of import first_bytes
from tests.mount.harness import Lcfs, wait_until

pytestmark = pytest.mark.mount


def write_lines(lcfs: Lcfs, text: bytes) -> None:
    with open(lcfs.directory / "mnt/devices/1", "r+b", buffering=0) as disk:
        assert disk.write(text * 8192) == 8192 * len(text)


def test_drain_leaves_everything_on_the_backing(lcfs: Lcfs) -> None:
    lcfs.mount()
    write_lines(lcfs, b"x")
    lcfs.run("umount", "--drain", "mnt")
    assert first_bytes(lcfs.directory / "ssd.disk1.img", 8192) == b"x" * 8192
    lcfs.mount()
    assert lcfs.read("caches/1/nr_dirty_caches") == "0"


def test_without_drain_they_stay_in_the_cache(lcfs: Lcfs) -> None:
    lcfs.mount()
    (lcfs.directory / "mnt/caches/1/update_interval").write_text("0\n")
    write_lines(lcfs, b"x")
    lcfs.run("umount", "mnt")
    assert first_bytes(lcfs.directory / "ssd.disk1.img", 8192) == bytes(8192)


def test_wait_goes_on_until_it_is_free_and_drains_what_came_meanwhile(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    (mountpoint / "caches/1/update_interval").write_text("0\n")
    disk = os.open(mountpoint / "devices/1", os.O_RDWR)
    try:
        child = lcfs.start("umount", "--wait", "--drain", "mnt")
        os.pwrite(disk, b"a" * 4096, 0)
        wait_until(lambda: lcfs.read("caches/1/nr_dirty_caches") == "0", "the first drain")
        os.pwrite(disk, b"b" * 4096, 0)
        wait_until(lambda: lcfs.read("caches/1/nr_dirty_caches") == "0", "the next drain")
        assert child.poll() is None
    finally:
        os.close(disk)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")
    assert mount_at(str(mountpoint)) is None
    assert first_bytes(lcfs.directory / "ssd.disk1.img", 4096) == b"b" * 4096


def test_a_wait_that_is_called_off_leaves_it_mounted(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    with open(mountpoint / "devices/1", "r+b", buffering=0) as disk:
        child = lcfs.start("umount", "--wait", "--drain", "mnt")
        disk.write(b"a" * 4096)
        wait_until(lambda: lcfs.read("caches/1/nr_dirty_caches") == "0", "the first drain")
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert disk.write(b"b" * 4096) == 4096
    assert "Traceback" not in err
    assert mount_at(str(mountpoint)) is not None


def test_a_drain_that_cannot_be_done_leaves_it_mounted(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "disk.img,size=8M")
    write_lines(lcfs, b"x")
    lcfs.umount()
    os.rename(lcfs.directory / "disk.img", lcfs.directory / "moved.img")
    mountpoint = lcfs.mount()
    done = lcfs.run("umount", "--drain", "mnt", check=False)
    assert done.returncode == 32
    assert "disk 1" in done.stderr
    assert mount_at(str(mountpoint)) is not None
