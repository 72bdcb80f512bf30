# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs top`: on a terminal of a test, in a pipe, and its frames at odd sizes."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lcfs as package
from lcfs.commands.control import Tree
from lcfs.commands.top_drawing import ASCII, UNICODE
from lcfs.commands.top_keys import Decoder
from lcfs.commands.top_model import History, Look, look, parse_segments
from lcfs.commands.top_screen import KEYS, View, screen
from tests.commands.terminal import Terminal, environment
from tests.mount.harness import Lcfs, wait_until

SOURCE = Path(package.__file__).parent.parent


@contextmanager
def top(lcfs: Lcfs, *words: str, **size: int) -> Iterator[Terminal]:
    """`lcfs top` on a terminal of its own."""
    terminal = Terminal(lcfs.command("top", *words), cwd=lcfs.directory, env=environment(SOURCE), **size)
    try:
        yield terminal
    finally:
        terminal.close()


def write(lcfs: Lcfs, mib: int = 3) -> None:
    with open(lcfs.directory / "mnt/devices/1", "r+b", buffering=0) as disk:
        for _ in range(mib):
            disk.write(os.urandom(1 << 20))


def two_looks(lcfs: Lcfs) -> tuple[Look, History]:
    """What is mounted, with something that went on between two looks."""
    history = History()
    tree = Tree(str(lcfs.directory / "mnt"))
    history.add(look(tree))
    write(lcfs)
    last = look(tree)
    history.add(last)
    return last, history


# Parts


def test_keys_come_as_bytes_whole_or_in_parts() -> None:
    decoder = Decoder()
    assert decoder.feed(b"qm +\r\x1b[A\x1bOB\x1b[200~") == ["q", "m", "space", "+", "enter", "up", "down"]
    assert decoder.feed(b"\x1b") == [] and decoder.is_waiting
    assert decoder.feed(b"[") == []
    assert decoder.feed(b"B") == ["down"]
    assert decoder.feed(b"\x1b") == [] and decoder.escape() == ["escape"]
    assert decoder.feed(b"\xff\x00") == []


def test_the_attribute_segments() -> None:
    found = parse_segments("nr_segments 255\ntail 21\nflushed 31\ncurrent 33\n20 clean 0\n9 dirty 84\n226 free 0")
    assert (found.slots, found.in_use, sum(run.slots for run in found.runs)) == (255, 13, 255)
    assert found.runs[1] == (9, "dirty", 84)


# On a mount


@pytest.mark.mount
def test_a_screen_is_never_larger_than_the_terminal(lcfs: Lcfs) -> None:
    name = "日本 a very long name " + "x" * 40
    lcfs.mount("--device", f"1=a.img,size=8M,name={name[:30]}", "--device", "2=b.img,size=8M,cache=0")
    seen, history = two_looks(lcfs)
    for width, height in ((80, 24), (60, 15), (200, 60), (40, 10), (20, 5), (1, 1)):
        for helping in (False, True):
            for characters in (UNICODE, ASCII):
                view = View(
                    seen.mountpoint, seen, history, seen.at, 1.0, cache_id=1, disk_id=2, helping=helping, message="a" * 300
                )
                lines = screen(view, width, height, characters)
                assert len(lines) <= height
                # what is narrower than any terminal is cut when it is drawn
                assert width < 40 or all(line.cell_len <= width for line in lines), (width, height)
                if characters is ASCII:
                    assert all(line.plain.replace("日本", "").isascii() for line in lines)
    view = View(seen.mountpoint, seen, history, seen.at, 1.0, cache_id=1, disk_id=1)
    text = "\n".join(line.plain for line in screen(view, 80, 24, UNICODE))
    for part in ("cache 1", "migration", "ring", "T tail 1", "dirty", "writes", "barriers", "日本"):
        assert part in text, f"{part} is missing in\n{text}"
    assert re.search(r"write +3(\.\d+)?M/s|write +[\d.]+[MG]/s", text), text
    assert re.search(r"writes +p50 +[\d.]+ ?[mµu]?s", text), f"the times of requests are missing in\n{text}"


@pytest.mark.mount
def test_in_a_pipe(lcfs: Lcfs) -> None:
    mnt = lcfs.mount()
    one = lcfs.run("top", mnt).stdout
    assert one.count("lcfs top") == 1 and "\x1b" not in one
    assert all(len(line) <= 80 for line in one.splitlines())
    assert lcfs.run("top", "-b", "-n", "3", "-d", "0.1", "-m", mnt).stdout.count("lcfs top") == 3
    refused = lcfs.run("top", mnt, "-m", mnt, check=False)
    assert (refused.returncode, "two mount points" in refused.stderr) == (2, True)
    assert lcfs.run("top", "-d", "0", mnt, check=False).returncode == 2


@pytest.mark.mount
def test_keys_change_the_tree_and_the_terminal_is_as_before(lcfs: Lcfs) -> None:
    lcfs.mount()
    with top(lcfs, "-d", "0.2", "mnt") as terminal:
        terminal.shows("ring")
        assert len(terminal.text.splitlines()) <= 24
        assert terminal.attributes() != terminal.before
        terminal.type("m")
        wait_until(lambda: lcfs.read("caches/1/force_migrate") == "1", "force_migrate")
        terminal.shows("force_migrate")
        terminal.type("t")
        terminal.shows("migrate_threshold")
        terminal.type("335\x7f\r")
        wait_until(lambda: lcfs.read("block/1/migrate_threshold") == "33", "migrate_threshold")
        terminal.type("t999\r")
        terminal.shows("migrate_threshold takes 0 to 100, not 999")
        terminal.type("s")
        terminal.shows("?")
        terminal.type("n")
        assert lcfs.read("block/1/suspended") == "0"
        terminal.type("s")
        terminal.type("y")
        wait_until(lambda: lcfs.read("block/1/suspended") == "1", "suspended")
        terminal.shows("suspended")
        terminal.type("s")
        wait_until(lambda: lcfs.read("block/1/suspended") == "0", "resumed")
        terminal.type("a")
        terminal.shows("update_interval")
        terminal.type("?")
        terminal.shows(KEYS[4][2][:40])
        terminal.type("?")
        write(lcfs)
        terminal.type("f")
        terminal.shows("flush_current_buffer")
        terminal.resize(120, 40)
        terminal.child.send_signal(signal.SIGWINCH)
        terminal.wait(lambda: any(len(line) > 80 for line in terminal.text.splitlines()), "a wider screen")
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.attributes() == terminal.before
        assert terminal.output.endswith("\x1b[?1049l")


@pytest.mark.mount
def test_stopped_and_continued(lcfs: Lcfs) -> None:
    lcfs.mount()
    # a shell with job control: without a parent in its session nobody can be stopped
    shell = f"{shlex.join(lcfs.command('top', '-d', '0.2', 'mnt'))}; echo stopped now; read line; fg >/dev/null; echo code $?"
    terminal = Terminal(["bash", "-m", "-c", shell], cwd=lcfs.directory, env=environment(SOURCE))
    try:
        terminal.shows("ring")
        terminal.type("\x1a")
        terminal.wait(lambda: "stopped now" in terminal.output, "the stop")
        assert terminal.attributes() == terminal.before
        seen = len(terminal.output)
        terminal.type("\n")
        terminal.wait(lambda: "ring" in terminal.output[seen:], "going on")
        assert terminal.attributes() != terminal.before
        terminal.type("q")
        terminal.wait(lambda: "code 0" in terminal.output, "the end")
        assert terminal.attributes() == terminal.before
    finally:
        terminal.close()


@pytest.mark.mount
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(lcfs: Lcfs) -> None:
    lcfs.mount()
    with top(lcfs, "mnt") as terminal:
        terminal.shows("ring")
        terminal.child.send_signal(signal.SIGTERM)
        assert terminal.ended() == -signal.SIGTERM
        assert terminal.attributes() == terminal.before
        assert terminal.output.endswith("\x1b[?1049l")


@pytest.mark.mount
def test_a_mount_that_does_not_answer_or_is_gone(lcfs: Lcfs) -> None:
    lcfs.mount()
    with top(lcfs, "-d", "0.2", "mnt") as terminal:
        terminal.shows("ring")
        os.kill(lcfs.pid(), signal.SIGSTOP)
        try:
            terminal.shows("no answer since")
        finally:
            os.kill(lcfs.pid(), signal.SIGCONT)
        terminal.wait(lambda: "no answer since" not in terminal.text, "an answer")
        lcfs.kill9()
        assert terminal.ended() in (0, 1)
        assert terminal.attributes() == terminal.before
        assert "mnt" in terminal.output.rpartition("\x1b[?1049l")[2], "a sentence says what happened"
