# SPDX-License-Identifier: GPL-2.0-or-later
"""The locked file by which a daemon is found and its end is waited for."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import lcfs
from lcfs.commands import run_file
from lcfs.commands.mounts import Mount
from lcfs.commands.run_file import Watch, daemon_of

MOUNT = Mount("/mnt/lc", "0:4242", "fuse.lcfs", "ssd.img", os.geteuid())

SCRIPT = """
import sys
from lcfs.commands import run_file
run_file.directory = lambda uid: {home!r}
mine = run_file.RunFile("0:4242")
print("up", flush=True)
end = sys.stdin.readline().strip()
if end == "clean":
    mine.remove()
elif end:
    mine.failed(end)
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    monkeypatch.setattr(run_file, "directory", lambda uid: str(tmp_path / "run"))
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(home=str(tmp_path / "run"))],
        env={**os.environ, "PYTHONPATH": str(Path(lcfs.__file__).parent.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


def end_of(daemon: subprocess.Popen[str], how: str) -> str | None:
    """What a watcher that was there before learns."""
    watch = Watch(MOUNT)
    assert watch.pid == daemon.pid
    answers: list[str | None] = []
    waiter = threading.Thread(target=lambda: answers.append(watch.wait()))
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive(), "it waits as long as the daemon lives"
    daemon.communicate(how + "\n", timeout=30)
    waiter.join(30)
    watch.close()
    return answers[0]


def test_a_clean_stop(daemon: subprocess.Popen[str], tmp_path: Path) -> None:
    assert end_of(daemon, "clean") is None
    assert os.listdir(tmp_path / "run") == []


def test_a_stop_that_failed_leaves_its_reason(daemon: subprocess.Popen[str]) -> None:
    assert end_of(daemon, "cache 1 could not be written") == "cache 1 could not be written"


def test_a_daemon_that_was_killed(daemon: subprocess.Popen[str]) -> None:
    said = end_of(daemon, "")
    assert said is not None
    assert "ended without a clean stop" in said
    assert daemon_of(MOUNT) is None, "the file is still there; the lock tells that nobody is"


def test_a_number_is_used_again(daemon: subprocess.Popen[str], tmp_path: Path) -> None:
    end_of(daemon, "it failed")
    again = run_file.RunFile("0:4242")
    assert daemon_of(MOUNT) == os.getpid()
    again.remove()
    os.close(again._fd)


def test_no_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "directory", lambda uid: str(tmp_path))
    watch = Watch(MOUNT)
    assert watch.pid is None
    assert watch.wait() is None


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run").symlink_to("theirs")
    monkeypatch.setattr(run_file, "directory", lambda uid: str(tmp_path / "run"))
    with pytest.raises(PermissionError, match="somebody else"):
        run_file.RunFile("0:4242")
    assert os.listdir(tmp_path / "theirs") == []
