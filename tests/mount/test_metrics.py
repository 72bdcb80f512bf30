# SPDX-License-Identifier: GPL-2.0-or-later
"""metrics of a mount with odd names, through the kernel."""

from __future__ import annotations

import os

import pytest

from tests.mount.harness import Lcfs
from tests.tree.exposition import read, value_of

pytestmark = pytest.mark.mount


def test_names_with_every_odd_sign(lcfs: Lcfs) -> None:
    image, backing = lcfs.directory / 'ss"d\\n, 磁 }.img', lcfs.directory / "a\\b 'c' ü.raw"
    name = 'q"uo\\te \\n é🖴'
    mnt = lcfs.mount("--cache", image, "--cache-size", "4M", "--device", f"{backing},size=1M,name={name}")
    fd = os.open(mnt / "devices/1", os.O_RDWR)
    try:
        os.pwrite(fd, bytes(65536), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    families = read((mnt / "metrics").read_bytes().decode())
    assert families["lcfs_cache_info"].samples[0].labels["image"] == str(image)
    labels = families["lcfs_device_info"].samples[0].labels
    assert (labels["name"], labels["backing"]) == (name, str(backing))
    assert value_of(families, "lcfs_device_request_seconds_count", device="1", op="barrier", from_="image") >= 1
    assert value_of(families, "lcfs_cache_log_bytes_total", cache="1") >= 65536 + 4096
    lcfs.umount()


def test_bytes_that_are_no_text(lcfs: Lcfs) -> None:
    image = os.fsdecode(os.fsencode(lcfs.directory) + b"/ssd\xff\xfe.img")
    mnt = lcfs.mount("--cache", image, "--cache-size", "4M")
    families = read((mnt / "metrics").read_bytes().decode())
    assert families["lcfs_cache_info"].samples[0].labels["image"].endswith(r"/ssd\udcff\udcfe.img")
    lcfs.umount()
