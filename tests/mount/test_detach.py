# SPDX-License-Identifier: GPL-2.0-or-later
"""Detach while the disk is in use: online, cancellable, complete."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs, wait_until

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]

NR_LINES = 1000
LINE = 4096


def dirty_lines(disk: Path) -> bytes:
    """Write every other line of the first 2000; what the disk then holds there."""
    image = bytearray(2 * NR_LINES * LINE)
    file = os.open(disk, os.O_RDWR)
    try:
        for number in range(NR_LINES):
            line = os.urandom(LINE)
            image[2 * number * LINE : (2 * number + 1) * LINE] = line
            os.pwrite(file, line, 2 * number * LINE)
    finally:
        os.close(file)
    return bytes(image)


class Reader(threading.Thread):
    """Reads and writes a line far off, over and over; remembers the longest pause and any error."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.errors: list[OSError] = []
        self.rounds = 0
        self._disk = disk

    def run(self) -> None:
        file = os.open(self._disk, os.O_RDWR)
        try:
            while not self.stop.is_set():
                word = self.rounds.to_bytes(8, "little")
                os.pwrite(file, word, 12 << 20)
                if os.pread(file, 8, 12 << 20) != word:
                    raise OSError("a stale read")
                self.rounds += 1
        except OSError as exc:
            self.errors.append(exc)
        finally:
            os.close(file)


def test_detach_with_1000_dirty_lines_while_the_disk_is_in_use(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=16M")
    lcfs.store("caches/1/update_interval", 0)
    expected = dirty_lines(mnt / "devices/1")
    assert int(lcfs.read("block/1/nr_dirty_caches")) == NR_LINES
    user = Reader(mnt / "devices/1")
    user.start()
    try:
        wait_until(lambda: user.rounds > 10, "the user of the disk to run")
        lcfs.run("device", "detach", "-m", mnt, "1")
        after = user.rounds
        wait_until(lambda: user.rounds > after + 10, "the user to go on after detach")
    finally:
        user.stop.set()
        user.join()
    assert not user.errors
    assert lcfs.read("block/1/cache_id") == "0"
    assert lcfs.read("block/1/nr_dirty_caches") == lcfs.read("caches/1/nr_dirty_caches") == "0"
    assert (mnt / "devices/1").read_bytes()[: len(expected)] == expected
    assert (lcfs.directory / "a.img").read_bytes() == (mnt / "devices/1").read_bytes(), "the backing equals the disk"
    lcfs.umount()
    mnt = lcfs.mount()
    assert lcfs.read("block/1/cache_id") == "0"
    assert (mnt / "devices/1").read_bytes()[: len(expected)] == expected


@pytest.mark.loop
def test_ctrl_c_leaves_the_disk_attached(lcfs: Lcfs) -> None:
    """On a backing that takes 20 ms a write, so that there is time for it: nbdkit's delay filter through nbdfuse."""
    slow = lcfs.directory / "slow"
    slow.write_bytes(b"")
    lcfs.shell("truncate", "-s", "16M", "a.raw")
    nbd = subprocess.Popen(
        ["nbdfuse", str(slow), "--command", "nbdkit", "-s", "--filter=delay", "file", "a.raw", "delay-write=20ms"],
        cwd=lcfs.directory,
    )
    try:
        wait_until(lambda: slow.stat().st_size == 16 << 20, "nbdfuse to serve")
        mnt = lcfs.mount("--device", f"1={slow}")
        lcfs.store("caches/1/update_interval", 0)
        expected = dirty_lines(mnt / "devices/1")
        detach = lcfs.start("device", "detach", "-m", mnt, "1")
        wait_until(lambda: 0 < int(lcfs.read("block/1/nr_dirty_caches")) < NR_LINES, "detach to be under way")
        os.killpg(detach.pid, signal.SIGINT)
        _, said = detach.communicate(timeout=60)
        assert detach.returncode == 130, said
        assert "attached" in said
        assert lcfs.read("block/1/cache_id") == "1"
        assert (mnt / "devices/1").read_bytes()[: len(expected)] == expected
        lcfs.run("device", "detach", "-m", mnt, "1", timeout=120)
        assert lcfs.read("block/1/cache_id") == "0"
    finally:
        lcfs.run("umount", lcfs.directory / "mnt", check=False)
        lcfs.shell("umount", slow, check=False)
        nbd.wait(timeout=30)
    assert (lcfs.directory / "a.raw").read_bytes()[: len(expected)] == expected


def test_detach_of_a_clean_disk_is_immediate_and_attach_brings_it_back(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "1=a.img,size=8M")
    lcfs.run("device", "detach", "-m", mnt, "1")
    with open(mnt / "devices/1", "r+b") as disk:
        disk.write(b"past the cache")
    lcfs.run("device", "attach", "-m", mnt, "1", "1")
    assert lcfs.read("block/1/cache_id") == "1"
    with open(mnt / "devices/1", "r+b") as disk:
        disk.seek(4)
        disk.write(b" through")
    assert (mnt / "devices/1").read_bytes()[:14] == b"past throughhe"
    lcfs.run("device", "detach", "-m", mnt, "1")
    assert (lcfs.directory / "a.img").read_bytes()[:14] == b"past throughhe"
