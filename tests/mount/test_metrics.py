# SPDX-License-Identifier: GPL-2.0-or-later
"""metrics of a mount: with odd names, through the kernel, and over HTTP."""

from __future__ import annotations

import os
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lcfs.commands.mounts import mount_at
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


def mount_with(lcfs: Lcfs, *words: str | Path) -> str:
    """Mount; what is said of where the metrics are."""
    mnt = lcfs.directory / "mnt"
    mnt.mkdir(exist_ok=True)
    done = lcfs.run("mount", mnt, *words, "--pid-file", lcfs.pid_file(), "--log", lcfs.log_file())
    match = re.search(r"^metrics are at (http://127\.0\.0\.1:([0-9]+)/metrics)$", done.stderr, re.MULTILINE)
    assert match, done.stderr
    assert match[2] != "0"
    return match[1]


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(answer.read().decode())


@pytest.mark.parametrize("words", [("--metrics", "127.0.0.1:0"), ("-o", "allow_other,metrics=127.0.0.1:0")])
def test_a_scrape(lcfs: Lcfs, words: tuple[str, str]) -> None:
    url = mount_with(lcfs, "--cache", "ssd.img", "--cache-size", "4M", *words)
    families = read(fetched(url))
    assert families.keys() == read((lcfs.directory / "mnt/metrics").read_text()).keys()
    assert value_of(families, "lcfs_cache_state", cache="1", state="running") == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetched(url + "/more")
    lcfs.umount()
    with pytest.raises(urllib.error.URLError):
        fetched(url)


def test_umount_waits_for_no_client(lcfs: Lcfs) -> None:
    url = mount_with(lcfs, "--cache", "ssd.img", "--cache-size", "4M", "--metrics", "127.0.0.1:0")
    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as silent, socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"GET /metr")
        fetched(url)
        lcfs.umount()
        assert silent.recv(100) == b""
        half.settimeout(30)
        assert half.recv(100) == b""


def test_from_the_tab_file(lcfs: Lcfs) -> None:
    tab = lcfs.directory / "tab"
    tab.write_text(
        f'[mount.x]\nat = "{lcfs.directory}/mnt"\nmetrics = "127.0.0.1:0"\n'
        f'[[mount.x.cache]]\nimage = "{lcfs.directory}/ssd.img"\n'
    )
    (lcfs.directory / "mnt").mkdir()
    done = lcfs.run("mount", "--tab", tab, "x", "--pid-file", lcfs.pid_file())
    (url,) = re.findall(r"http://\S+", done.stderr)
    assert "lcfs_build_info" in fetched(url)
    lcfs.umount()


def test_an_address_that_is_taken_refuses_the_mount(lcfs: Lcfs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "127.0.0.1:" + str(other.getsockname()[1])
        (lcfs.directory / "mnt").mkdir()
        done = lcfs.run("mount", lcfs.directory / "mnt", "--cache", "ssd.img", "--metrics", address, check=False)
    assert done.returncode == 32
    assert f"metrics cannot be served at {address}: " in done.stderr
    assert mount_at(str(lcfs.directory / "mnt")) is None
    assert not (lcfs.directory / "ssd.img").exists()


@pytest.mark.parametrize("words", [("--metrics", "9350"), ("--metrics", "127.0.0.1:1,ro"), ("-o", "metrics=:1")])
def test_a_word_that_is_no_address_refuses_the_mount(lcfs: Lcfs, words: tuple[str, str]) -> None:
    (lcfs.directory / "mnt").mkdir()
    done = lcfs.run("mount", lcfs.directory / "mnt", "--cache", "ssd.img", *words, check=False)
    assert done.returncode == 32
    assert "is not ADDR:PORT; write it as 127.0.0.1:9350 or [::1]:9350" in done.stderr
    assert not (lcfs.directory / "ssd.img").exists()
