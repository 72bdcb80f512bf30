# SPDX-License-Identifier: GPL-2.0-or-later
"""Real mounts: the verbs that work through the tree, and check and dump on what they leave."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lcfs.commands.cache.stats import COLUMNS
from tests.commands.bytes_of import first_bytes
from tests.mount.harness import Lcfs, wait_until

pytestmark = pytest.mark.mount

LINE = 4096


def said(lcfs: Lcfs, *words: str | Path, code: int = 1) -> str:
    """The sentence of a verb that ends with `code`."""
    done = lcfs.run(*words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.partition(": ")[2].strip()


def answer(lcfs: Lcfs, *words: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON listing with one key."""
    (rows,) = json.loads(lcfs.run(*words, "--json").stdout).values()
    assert isinstance(rows, list)
    return rows


def write_lines(lcfs: Lcfs, disk: int, count: int) -> bytes:
    """Write `count` whole lines to every second line of a disk; its first bytes (8 MiB at most) afterwards."""
    file = os.open(lcfs.directory / f"mnt/devices/{disk}", os.O_RDWR)
    try:
        for number in range(count):
            os.pwrite(file, bytes([1 + number % 255]) * LINE, number * 2 * LINE)
        return os.pread(file, 2 * min(count, 1000) * LINE, 0)
    finally:
        os.close(file)


def test_status(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=8M,name=vm")
    write_lines(lcfs, 1, 3)
    (row,) = answer(lcfs, "status", "mnt")
    (cache,) = row["caches"]
    assert (cache["migration"], cache["scrub"], cache["tunables"]["barrier_deadline_ms"], cache["flushes"]) == (
        "idle",
        "idle",
        3,
        0,
    )
    assert cache["reads"] >= cache["read_hits"] >= 0
    assert row["devices"][0]["errors"] == 0
    assert row["mountpoint"] == str(lcfs.directory / "mnt")
    (cache,) = row["caches"]
    assert (cache["id"], cache["state"], cache["nr_dirty_caches"]) == (1, "running", 3)
    (disk,) = row["devices"]
    assert (disk["id"], disk["name"], disk["size"], disk["cache_id"]) == (1, "vm", 8 << 20, 1)
    assert (disk["dev"], disk["suspended"], disk["path"]) == ([], False, str(lcfs.directory / "d.img"))
    assert "vm" in lcfs.run("status", "mnt").stdout


def test_stats(lcfs: Lcfs) -> None:
    lcfs.mount()
    write_lines(lcfs, 1, 3)
    rows = answer(lcfs, "cache", "stats", "-m", "mnt", "1")
    assert len(rows) == 16
    assert [tuple(row) for row in rows] == [COLUMNS] * 16
    full_write_misses = [row for row in rows if (row["write"], row["hit"], row["fullsize"]) == (1, 0, 1)]
    assert sum(row["count"] for row in full_write_misses) == 3
    text = lcfs.run("cache", "stats", "-m", "mnt", "1").stdout.splitlines()
    assert text[0].split() == list(COLUMNS)
    assert [int(word) for word in text[1].split()] == list(rows[0].values())
    assert "has no cache 2; it has: 1" in said(lcfs, "cache", "stats", "-m", "mnt", "2")


def test_life_of_a_disk(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d1.img,size=8M")
    words = ("-m", "mnt")
    lcfs.run("device", "create", *words, "7", "d 7.img", "--size", "16M", "--name", "seven")
    assert lcfs.read("block/7/cache_id") == "0"
    assert lcfs.read("block/7/name") == "seven"
    assert (lcfs.directory / "mnt/devices/7").stat().st_size == 16 << 20
    lcfs.run("device", "create", *words, "8", "d8.img", "--size", "8M", "--cache", "1")
    assert lcfs.read("block/8/cache_id") == "1"
    said(lcfs, "device", "create", *words, "7", "other.img")
    said(lcfs, "device", "create", *words, "9", "d 7.img")
    assert not (lcfs.directory / "other.img").exists()
    lcfs.run("device", "attach", *words, "7", "1")
    said(lcfs, "device", "attach", *words, "7", "1")
    said(lcfs, "device", "attach", *words, "99", "1")
    said(lcfs, "cache", "free", *words, "1")
    content = write_lines(lcfs, 7, 5)
    lcfs.run("device", "detach", *words, "7")
    assert (lcfs.read("block/7/cache_id"), lcfs.read("block/7/nr_dirty_caches")) == ("0", "0")
    assert first_bytes(lcfs.directory / "d 7.img", len(content)) == content
    said(lcfs, "device", "detach", *words, "7")
    lcfs.run("device", "remove", *words, "7")
    assert sorted(os.listdir(lcfs.directory / "mnt/block")) == ["1", "8"]
    said(lcfs, "device", "remove", *words, "7")
    assert (lcfs.directory / "d 7.img").exists()


def test_suspend_and_resume(lcfs: Lcfs) -> None:
    lcfs.mount()
    for options in ([], ["--noflush"]):
        lcfs.run("device", "suspend", "-m", "mnt", *options, "1")
        assert lcfs.read("block/1/suspended") == "1"
        lcfs.run("device", "resume", "-m", "mnt", "1")
        assert lcfs.read("block/1/suspended") == "0"


def test_ctrl_c_leaves_a_disk_attached(lcfs: Lcfs) -> None:
    """40 000 lines that no two of which can be merged take about a second to drain."""
    lcfs.mount("--device", "d.img,size=1G")
    lcfs.store("caches/1/update_interval", 0)  # or the modulator begins before detach does
    lcfs.store("caches/1/allow_migrate", 0)
    content = write_lines(lcfs, 1, 40_000)
    child = lcfs.start("device", "detach", "-m", "mnt", "1")
    wait_until(lambda: int(lcfs.read("block/1/nr_dirty_caches")) < 40_000, "the drain to begin")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, ""), err
    assert "disk 1 stays attached" in err
    assert lcfs.read("block/1/cache_id") == "1"
    assert int(lcfs.read("block/1/nr_dirty_caches")) > 0
    assert first_bytes(lcfs.directory / "mnt/devices/1", len(content)) == content
    lcfs.run("device", "detach", "-m", "mnt", "1")
    assert lcfs.read("block/1/nr_dirty_caches") == "0"
    assert first_bytes(lcfs.directory / "d.img", len(content)) == content


def test_drop(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=8M")
    content = write_lines(lcfs, 1, 100)
    lcfs.run("cache", "drop", "-m", "mnt", "1")
    assert lcfs.read("caches/1/nr_dirty_caches") == "0"
    assert first_bytes(lcfs.directory / "d.img", len(content)) == content


def test_scrub(lcfs: Lcfs) -> None:
    """Bits that change on the medium while the cache is in use, behind the page cache's back."""
    lcfs.mount("--device", "d.img,size=8M")
    content = write_lines(lcfs, 1, 300)
    lcfs.store("caches/1/update_interval", 0)
    lcfs.store("caches/1/allow_migrate", 0)
    lcfs.store("caches/1/flush_current_buffer", 1)
    done = lcfs.run("cache", "scrub", "-m", "mnt", "1").stdout
    assert done == lcfs.read("caches/1/scrub").join(("cache 1: ", "\n"))
    assert "finished 2 of 2 segments" in done and "0 dirty lines damaged" in done, "the open segment is in RAM and not read"
    assert lcfs.read("caches/1/state") == "running"
    image = os.open(lcfs.directory / "ssd.img", os.O_RDWR)
    try:
        line = (1 << 20) + 8 * LINE
        os.pwrite(image, bytes([os.pread(image, 1, line)[0] ^ 1]), line)
    finally:
        os.close(image)
    damaged = lcfs.run("cache", "scrub", "-m", "mnt", "1", check=False)
    assert (damaged.returncode, damaged.stdout.count("1 dirty lines damaged")) == (1, 1)
    assert lcfs.read("caches/1/state").startswith("degraded 1 damaged lines on")
    disk = os.open(lcfs.directory / "mnt/devices/1", os.O_RDONLY)
    try:
        os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(disk, 14 * LINE, 0) == content[: 14 * LINE]
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(disk, LINE, 14 * LINE)
    finally:
        os.close(disk)
    lcfs.store("caches/1/scrub", 0)
    with pytest.raises(OSError, match="Invalid argument"):
        lcfs.store("caches/1/scrub", 2)
    assert "scrub takes 0 and 1, not 2" in lcfs.read("control")


def test_drain_an_image_that_is_not_mounted(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=8M")
    lcfs.store("caches/1/update_interval", 0)
    lcfs.store("caches/1/allow_migrate", 0)
    content = write_lines(lcfs, 1, 100)
    lcfs.umount()
    (lcfs.directory / "d.img").rename(lcfs.directory / "moved.img")
    assert "has no disk 2 attached; it has 1" in said(lcfs, "cache", "drain", "ssd.img", "--device", "2=moved.img")
    assert "does not exist" in said(lcfs, "cache", "drain", "ssd.img", "--device", "1=d.img")
    done = lcfs.run("cache", "drain", "ssd.img", "--device", "1=moved.img")
    assert done.stdout == f"disk 1: 100 lines written to {lcfs.directory}/moved.img, 0 left\n"
    assert first_bytes(lcfs.directory / "moved.img", len(content)) == content
    (row,) = answer(lcfs, "cache", "drain", "ssd.img", "--device", "1=moved.img")
    assert (row["written"], row["left"], row["error"]) == (0, 0, None)
    (lcfs.directory / "moved.img").rename(lcfs.directory / "d.img")
    lcfs.mount()
    assert "in use" in said(lcfs, "cache", "drain", "ssd.img", "--device", "1=d.img")
    assert first_bytes(lcfs.directory / "mnt/devices/1", len(content)) == content
    for words in (["1"], ["0=d.img"], ["1="], ["1=a", "--device", "1=b"]):
        assert lcfs.run("cache", "drain", "ssd.img", "--device", *words, check=False).returncode == 2


def test_life_of_a_cache(lcfs: Lcfs) -> None:
    lcfs.mount()
    lcfs.run("cache", "format", "second.img", "--size", "8M")
    lcfs.run("cache", "resume", "-m", "mnt", "2", "second.img")
    assert lcfs.read("caches/2/state") == "running"
    assert os.readlink(lcfs.directory / "mnt/caches/2/device") == str(lcfs.directory / "second.img")
    assert "in use" in said(lcfs, "cache", "format", "second.img")
    said(lcfs, "cache", "resume", "-m", "mnt", "2", "second.img")
    said(lcfs, "cache", "resume", "-m", "mnt", "3", "second.img")
    lcfs.run("cache", "free", "-m", "mnt", "2")
    assert os.listdir(lcfs.directory / "mnt/caches") == ["1"]
    assert "has no cache 2" in said(lcfs, "cache", "free", "-m", "mnt", "2")
    lcfs.run("check", "second.img")


@pytest.mark.loop
def test_bind(lcfs: Lcfs) -> None:
    lcfs.mount()
    loop = lcfs.run("device", "bind", "-m", "mnt", "1").stdout.strip()
    queue = Path("/sys/block") / loop.removeprefix("/dev/")
    assert (queue / "loop/dio").read_text() == "1\n"
    assert (queue / "queue/logical_block_size").read_text() == "512\n"
    assert lcfs.read("block/1/dev") == (queue / "dev").read_text().strip()
    assert f"is bound to {loop} already" in said(lcfs, "device", "bind", "-m", "mnt", "1")
    lcfs.detach_loop(loop)
    loop = lcfs.run("device", "bind", "-m", "mnt", "--sector-size", "4096", "1").stdout.strip()
    assert (Path("/sys/block") / loop.removeprefix("/dev/") / "queue/logical_block_size").read_text() == "4096\n"
    lcfs.detach_loop(loop)
    assert "has no disk 9" in said(lcfs, "device", "bind", "-m", "mnt", "9")


def test_several_mounts_need_a_name(lcfs: Lcfs) -> None:
    lcfs.mount("--cache", "a.img", at="a")
    lcfs.mount("--cache", "b.img", at="b")
    assert "several lcfs are mounted" in said(lcfs, "cache", "drop", "1")
    every = lcfs.run("status", "--json", check=False)  # 1 where somebody else's lcfs cannot be read
    listed = [row["mountpoint"] for row in json.loads(every.stdout)["mounts"]]
    assert {str(lcfs.directory / name) for name in "ab"} <= set(listed)


def test_status_does_not_wait_for_a_daemon_that_does_not_answer(lcfs: Lcfs) -> None:
    lcfs.mount("--cache", "a.img", at="a")
    lcfs.mount("--cache", "b.img", at="b")
    stopped = lcfs.pid("a")
    os.kill(stopped, signal.SIGSTOP)
    try:
        done = lcfs.run("status", check=False)
        assert f"{lcfs.directory}/a has not answered for 5 s" in done.stderr
        assert f"{lcfs.directory}/b (" in done.stdout
        assert done.returncode == 1
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert "cache 1: running" in lcfs.run("status", "a").stdout


def test_check_and_dump_a_log(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=8M")
    write_lines(lcfs, 1, 3)
    lcfs.store("caches/1/flush_current_buffer", 1)
    write_lines(lcfs, 1, 2)
    in_use = lcfs.run("check", "ssd.img", check=False)
    assert (in_use.returncode, in_use.stdout) == (8, "")
    assert "in use" in in_use.stderr
    lcfs.umount()

    (checked,) = answer(lcfs, "check", "ssd.img")
    assert (checked["records"], checked["lines"], checked["errors"], checked["clean"]) == (2, 5, [], True)
    assert [disk["path"] for disk in checked["disks"]] == [str(lcfs.directory / "d.img")]
    assert "no damage found" in lcfs.run("check", "ssd.img").stdout

    (dumped,) = answer(lcfs, "dump", "ssd.img")
    assert [record["count"] for record in dumped["records"]] == [3, 2]
    segment_id = dumped["records"][0]["segment_id"]
    records = answer(lcfs, "dump", "ssd.img", str(segment_id))
    lines = [line for record in records for line in record["lines"]]
    assert [line["line"] for line in lines] == [0, 2, 4, 0, 2]
    assert {(line["device_id"], line["dirty"], line["intact"]) for line in lines} == {(1, 255, True)}
    assert lcfs.run("dump", "ssd.img").stdout.count("\n") > len(dumped["records"])
    assert "holds no record" in said(lcfs, "dump", "ssd.img", "99")

    place = _offset(records[0], lines[0]["block"])
    with open(lcfs.directory / "ssd.img", "r+b") as image:
        image.seek(place)
        image.write(b"damage")
    damaged = lcfs.run("check", "ssd.img", check=False)
    assert damaged.returncode == 4
    assert "line 0 of disk 1 does not match its checksum" in damaged.stdout


def _offset(record: dict[str, Any], block: int) -> int:
    return (record["segment_id"] << 20) + block * LINE


def test_a_log_with_a_hole_is_cut_when_asked(lcfs: Lcfs) -> None:
    lcfs.mount("--device", "d.img,size=8M")
    for count in (1, 2, 3):
        write_lines(lcfs, 1, count)
        lcfs.store("caches/1/flush_current_buffer", 1)
    lcfs.kill9()
    image = lcfs.directory / "ssd.img"
    with open(image, "r+b") as file:
        file.seek((1 << 20) + 2 * LINE + 40)  # the header of the second record
        file.write(b"damage")
    refused = lcfs.run("mount", "mnt", "--cache", "ssd.img", check=False)
    assert (refused.returncode, refused.stderr.count("was durable and is damaged")) == (32, 1)
    before = image.read_bytes()
    left = lcfs.run("check", "--repair", "ssd.img", check=False)
    assert left.returncode == 4
    assert "1 whole records behind it (lines: 3 of disk 1)" in left.stdout
    assert image.read_bytes() == before
    cut = lcfs.run("check", "--repair", "--cut-log", "ssd.img", check=False)
    assert cut.returncode == 1
    assert "REPAIRED: the log ends at segment 1, block 2 now; given up: 1 whole records behind it" in cut.stdout
    lcfs.run("check", "ssd.img")
    lcfs.mount()
    assert lcfs.read("caches/1/state") == "running"
    assert first_bytes(lcfs.directory / "mnt/devices/1", 3 * LINE) == bytes([1]) * LINE + bytes(2 * LINE)
