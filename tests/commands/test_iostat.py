# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs iostat`: what it makes of two looks, of its words, and of a real mount."""

from __future__ import annotations

import json
import mmap
import signal
import time
from typing import Any

import pytest

from lcfs.commands.counts import NOTHING, Counts, Look, rates
from lcfs.commands.failure import CommandFailed
from lcfs.commands.iostat import HEADING, parse_words, report
from lcfs.commands.rounds import short_size
from tests.mount.harness import Lcfs

BEFORE = Counts("running", 10, 1000, reads=100, writes=50, read_hits=50, write_hits=10, migrated=5, flushes=1)
NOW = Counts("running", 20, 1000, reads=300, writes=50, read_hits=200, write_hits=10, migrated=25, flushes=7)


def test_rates_are_what_happened_between_two_looks() -> None:
    found = rates(BEFORE, NOW, 2.0)
    assert found == {
        "state": "running",
        "dirty_bytes": 20 * 4096,
        "dirty_percent": 2.0,
        "read_bytes_per_second": 100 * 4096,
        "write_bytes_per_second": 0,
        "read_hit_percent": 75.0,
        "write_hit_percent": None,
        "migrated_bytes_per_second": 10 * 4096,
        "flushes_per_second": 3.0,
    } | dict.fromkeys(f"{op}_{quantile}_seconds" for op in ("read", "write", "barrier") for quantile in ("p50", "p99"))


def test_counters_that_were_cleared_begin_anew() -> None:
    assert rates(NOW, BEFORE, 1.0)["read_bytes_per_second"] == 100 * 4096


def test_the_first_report_is_since_the_mount() -> None:
    found = report(Look(100.0, {}, {}), Look(110.0, {1: NOW}, {2: Counts("missing", 3, errors=4)}))
    assert (found["seconds"], found["caches"][0]["read_bytes_per_second"]) == (10.0, 30 * 4096)
    assert found["devices"] == [{"id": 2, "state": "missing", "dirty_bytes": 3 * 4096, "errors": 4}]
    assert rates(NOTHING, NOTHING, 0.0)["read_hit_percent"] is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "0.977K"),
        (4096, "4K"),
        (150 << 10, "150K"),
        (1 << 20, "1M"),
        (3 << 40, "3T"),
        (5e18, "4547474T"),
    ],
)
def test_sizes_are_short(number: float, text: str) -> None:
    assert short_size(number) == text


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ([], (None, 0.0, 0)),
        (["5"], (None, 5.0, 0)),
        (["0.5", "3"], (None, 0.5, 3)),
        (["mnt"], ("mnt", 0.0, 0)),
        (["./5", "1", "2"], ("./5", 1.0, 2)),
    ],
)
def test_words(words: list[str], meaning: tuple[str | None, float, int]) -> None:
    assert parse_words(words) == meaning


@pytest.mark.parametrize(
    "words", [["mnt", "mnt"], ["1", "0"], ["1", "2", "3"], ["0"], ["1", "1.5"], ["mnt", "1", "x"], ["1e3", "1e3"]]
)
def test_words_that_mean_nothing(words: list[str]) -> None:
    with pytest.raises(CommandFailed) as caught:
        parse_words(words)
    assert caught.value.exit_code == 2


@pytest.mark.mount
def test_on_a_mount(lcfs: Lcfs) -> None:
    mnt = lcfs.mount()
    (reports,) = (json.loads(line) for line in lcfs.run("iostat", "-J", mnt).stdout.splitlines())
    assert [cache["id"] for cache in reports["caches"]] == [1]
    assert [device["id"] for device in reports["devices"]] == [1]

    watch = lcfs.start("iostat", "-J", mnt, "0.2", "200")
    assert watch.stdout is not None
    assert json.loads(watch.stdout.readline())["caches"][0]["write_bytes_per_second"] == 0
    with open(mnt / "devices/1", "r+b", buffering=0) as disk:
        disk.write(mmap.mmap(-1, 1 << 20))  # from whole pages: the kernel hands over others in parts, each of them a piece
    found: list[dict[str, Any]] = []
    for line in watch.stdout:
        found.append(json.loads(line))
        if any(one["caches"][0]["write_bytes_per_second"] for one in found) or len(found) == 100:
            break
    watch.send_signal(signal.SIGINT)
    assert watch.wait() == 0
    assert sum(one["caches"][0]["write_bytes_per_second"] * one["seconds"] for one in found) == pytest.approx(1 << 20, rel=0.01)
    assert found[-1]["caches"][0]["dirty_bytes"] <= 1 << 20

    text = lcfs.run("iostat", "-v", mnt).stdout.splitlines()
    assert text[0].split() == list(HEADING[1:])
    assert [line.split()[:2] for line in text[1:]] == [["cache", "1"], ["disk", "1"]]
    script = lcfs.run("iostat", "-H", mnt, "0.1", "2").stdout.splitlines()
    assert len(script) == 2 and all(len(line.split("\t")) == len(HEADING) for line in script)


@pytest.mark.mount
def test_it_ends_with_the_mount(lcfs: Lcfs) -> None:
    mnt = lcfs.mount()
    watch = lcfs.start("iostat", "-H", mnt, "0.1")
    assert watch.stdout is not None and watch.stdout.readline()
    lcfs.umount()
    deadline = time.monotonic() + 60
    while watch.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watch.returncode in (0, 1)
    refused = lcfs.run("iostat", mnt, check=False)
    assert (refused.returncode, "is not a mounted lcfs" in refused.stderr) == (1, True)
