# SPDX-License-Identifier: GPL-2.0-or-later
"""B41: dm-lc's tools put what they were given into shell commands, always ended with 0 and kept their pid in a fixed file
in /tmp; lcfs takes names as they are, says how it ended, and keeps its run files where only their owner writes."""

from __future__ import annotations

import os
import stat

import pytest

from lcfs.commands import run_file
from tests.mount.harness import Lcfs

NASTY = "d $(touch pwned) `touch pwned`; touch pwned #'\"\\&|.img"


@pytest.mark.mount
def test_names_are_taken_as_they_are(lcfs: Lcfs) -> None:
    lcfs.mount()
    lcfs.run("device", "create", "-m", "mnt", "2", NASTY, "--size", "1M", "--name", "a $(touch pwned); 'b' \"c\"")
    assert (lcfs.directory / NASTY).stat().st_size == 1 << 20
    assert os.readlink(lcfs.directory / "mnt/block/2/device") == str(lcfs.directory / NASTY)
    assert lcfs.read("block/2/name") == "a $(touch pwned); 'b' \"c\""
    lcfs.run("device", "attach", "-m", "mnt", "2", "1")
    lcfs.run("device", "remove", "-m", "mnt", "2")
    assert "pwned" not in os.listdir(lcfs.directory)


@pytest.mark.mount
@pytest.mark.parametrize(
    "words, code",
    [
        ("device attach -m mnt 1 1", 1),
        ("device detach -m mnt 9", 1),
        ("device create -m mnt 1 x.img", 1),
        ("device remove -m mnt 9", 1),
        ("device remove -m mnt 0", 2),
        ("cache free -m mnt 1", 1),
        ("cache resume -m mnt 2 nothing.img", 1),
        ("cache format ssd.img", 1),
        ("status nowhere", 1),
        ("check nothing.img", 8),
        ("mount mnt --cache other.img", 32),
        ("device detach", 2),
        ("device frobnicate 1", 2),
        ("frobnicate", 2),
    ],
)
def test_how_it_ended(lcfs: Lcfs, words: str, code: int) -> None:
    lcfs.mount()
    done = lcfs.run(*words.split(), check=False)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr
    assert sorted(os.listdir(lcfs.directory / "mnt/block")) == ["1"]


@pytest.mark.mount
def test_run_files(lcfs: Lcfs) -> None:
    lcfs.mount()
    home = run_file.directory(os.geteuid())
    status = os.lstat(home)
    assert stat.S_ISDIR(status.st_mode)
    assert (status.st_uid, status.st_mode & 0o022) == (os.geteuid(), 0)
    pid = lcfs.pid()
    mine = [name for name in os.listdir(home) if open_text(os.path.join(home, name)).split()[:1] == [str(pid)]]
    assert len(mine) == 1
    lcfs.umount()
    assert not os.path.exists(os.path.join(home, mine[0]))


def open_text(path: str) -> str:
    """The text of a file that may go away meanwhile."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""
