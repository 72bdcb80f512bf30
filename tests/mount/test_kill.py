# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon is killed in the middle of work: what was synced is there after the next mount."""

import contextlib
import mmap
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop, pytest.mark.timeout(300)]

BLOCK = 4096
NR_BLOCKS = 2048


class Writer(threading.Thread):
    """Writes numbered blocks at random places and syncs; knows per block the last synced number and all later ones."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__()
        self.synced = [0] * NR_BLOCKS
        self.possible: list[set[int]] = [{0} for _ in range(NR_BLOCKS)]
        self.nr_syncs = 0
        self._path = path
        self._random = random.Random(seed)

    def run(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        try:
            number = 0
            while True:
                pending: dict[int, int] = {}
                for _ in range(self._random.randrange(1, 12)):
                    number += 1
                    block = self._random.randrange(NR_BLOCKS)
                    self.possible[block].add(number)
                    os.pwrite(file, content(number), block * BLOCK)
                    pending[block] = number
                os.fsync(file)
                for block, last in pending.items():
                    self.synced[block] = last
                    self.possible[block] = {n for n in self.possible[block] if n >= last}
                self.nr_syncs += 1
        except OSError:
            return
        finally:
            with contextlib.suppress(OSError):  # closing a file of a dead mount fails, and closes it
                os.close(file)


def content(number: int) -> memoryview:
    """A block that says its number eight hundred times over, page-aligned."""
    block = mmap.mmap(-1, BLOCK)
    block.write(number.to_bytes(8, "little") * (BLOCK // 8))
    return memoryview(block)


@pytest.mark.parametrize("seed", range(3))
def test_synced_blocks_survive_sigkill(lcfs: Lcfs, seed: int) -> None:
    mnt = lcfs.mount("--cache-size", "8M", "--device", "1=a.img,size=8M")
    lcfs.store("caches/1/force_migrate", 1)
    writer = Writer(mnt / "devices/1", seed)
    writer.start()
    time.sleep(0.5 + seed)
    lcfs.kill9()
    writer.join(timeout=30)
    assert not writer.is_alive(), "a write to the dead mount hangs"
    assert writer.nr_syncs > 20

    mnt = lcfs.mount()
    disk = (mnt / "devices/1").read_bytes()
    for block in range(NR_BLOCKS):
        numbers = {int.from_bytes(disk[at : at + 8], "little") for at in range(block * BLOCK, (block + 1) * BLOCK, 8)}
        assert len(numbers) == 1, f"block {block} is torn: {numbers}"
        number = numbers.pop()
        assert number in writer.possible[block], f"block {block}: {number}, synced {writer.synced[block]}"
    lcfs.umount()


def test_ext4_under_fio_verify_survives_sigkill(lcfs: Lcfs) -> None:
    """Files whose fsync returned are whole; the next mount needs no hand work but binding the loop device again."""
    mnt = lcfs.mount("--cache-size", "32M")
    device = lcfs.losetup(mnt / "devices/1", direct_io=True)
    lcfs.mkfs(device)
    fs = lcfs.mount_fs(device)
    witness: dict[str, int] = {}
    stop = threading.Event()

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                name = f"file{number}"
                with open(fs / name, "wb") as file:
                    file.write(number.to_bytes(4, "little") * 5000)
                    file.flush()
                    os.fsync(file.fileno())
                directory = os.open(fs, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
                witness[name] = number
        except OSError:
            return

    worker = threading.Thread(target=work)
    fio = subprocess.Popen(
        f"fio --name=load --filename={fs}/load --rw=randwrite --bs=4k --size=48M --fsync=32 "
        "--verify=crc32c --do_verify=0 --time_based --runtime=60 --output=/dev/null".split(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=lcfs.directory,
    )
    worker.start()
    try:
        time.sleep(4)
        lcfs.kill9()
    finally:
        stop.set()
        fio.wait(timeout=60)
        worker.join(timeout=60)
    assert len(witness) > 10
    lcfs.shell("umount", "-l", fs, check=False)
    lcfs.detach_loop(device)

    mnt = lcfs.mount()
    device = lcfs.losetup(mnt / "devices/1", direct_io=True)
    lcfs.shell("fsck.ext4", "-p", device, check=False)  # replays the journal
    lcfs.fsck(device)
    fs = lcfs.mount_fs(device, at="fs2")
    for name, number in witness.items():
        assert (fs / name).read_bytes() == number.to_bytes(4, "little") * 5000, name
    lcfs.umount_fs("fs2")
