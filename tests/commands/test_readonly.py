# SPDX-License-Identifier: GPL-2.0-or-later
"""`-o ro`: dirty lines are served merged from the image, and no byte of image or backing changes."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tests.commands.bytes_of import first_bytes
from tests.mount.harness import Lcfs

pytestmark = pytest.mark.mount


def digests(lcfs: Lcfs) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(lcfs.directory.glob("**/*.img"))}


def with_dirty_lines(lcfs: Lcfs, where: str = ".") -> None:
    """Lines dirty in whole and in part on the image, after a crash."""
    lcfs.mount("--cache", f"{where}/ssd.img", "--cache-size", "8M", "--device", f"{where}/disk.img,size=8M")
    lcfs.run("cache", "drop", "-m", "mnt", "1")
    disk = os.open(lcfs.directory / "mnt/devices/1", os.O_RDWR)
    os.pwrite(disk, b"a" * 8192, 0)
    os.fsync(disk)
    (lcfs.directory / "mnt/caches/1/drop_caches").write_text("1\n")
    os.pwrite(disk, b"b" * 512, 1024)
    os.pwrite(disk, b"c" * 4096, 8192)
    os.fsync(disk)
    os.close(disk)
    lcfs.kill9()
    lcfs.run("umount", "mnt")


EXPECTED = b"a" * 1024 + b"b" * 512 + b"a" * (8192 - 1536) + b"c" * 4096


def look(lcfs: Lcfs, mountpoint: Path) -> None:
    disk = mountpoint / "devices/1"
    assert first_bytes(disk, len(EXPECTED)) == EXPECTED
    assert int((mountpoint / "caches/1/nr_dirty_caches").read_text()) == 2
    with pytest.raises(OSError) as refused:
        os.open(disk, os.O_RDWR)
    assert refused.value.errno == errno.EROFS
    for attribute in ("flush_current_buffer", "drop_caches", "commit_super_block"):
        with pytest.raises(OSError) as refused:
            (mountpoint / "caches/1" / attribute).write_text("1\n")
        assert refused.value.errno == errno.EROFS


def test_nothing_is_written(lcfs: Lcfs) -> None:
    with_dirty_lines(lcfs)
    before = digests(lcfs)
    look(lcfs, lcfs.mount("-o", "ro"))
    lcfs.umount()
    assert digests(lcfs) == before
    lcfs.mount()
    assert first_bytes(lcfs.directory / "mnt/devices/1", len(EXPECTED)) == EXPECTED


def test_files_that_nobody_may_write(lcfs: Lcfs) -> None:
    with_dirty_lines(lcfs)
    for image in lcfs.directory.glob("**/*.img"):
        image.chmod(0o444)
    before = digests(lcfs)
    look(lcfs, lcfs.mount("-o", "ro"))
    lcfs.umount()
    assert digests(lcfs) == before


@pytest.mark.loop
def test_a_file_system_that_nobody_may_write(lcfs: Lcfs) -> None:
    store = lcfs.directory / "store"
    store.mkdir()
    lcfs.shell("mount", "-t", "tmpfs", "none", store)
    try:
        with_dirty_lines(lcfs, "store")
        before = digests(lcfs)
        lcfs.shell("mount", "-o", "remount,ro", store)
        refused = lcfs.run("mount", "mnt", "--cache", "store/ssd.img", check=False)
        assert refused.returncode == 32
        assert "is read-only" in refused.stderr
        look(lcfs, lcfs.mount("--cache", "store/ssd.img", "-o", "ro"))
        lcfs.umount()
        assert digests(lcfs) == before
    finally:
        lcfs.shell("umount", "-l", store)


def test_nothing_is_created(lcfs: Lcfs) -> None:
    (lcfs.directory / "mnt").mkdir()
    done = lcfs.run("mount", "mnt", "--cache", "ssd.img", "-o", "ro", check=False)
    assert done.returncode == 32
    assert "a read-only mount creates nothing" in done.stderr
    assert not (lcfs.directory / "ssd.img").exists()
