# SPDX-License-Identifier: GPL-2.0-or-later
"""Going to the background, with daemons that end in every way; each in an interpreter of its own, because it forks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lcfs

SCRIPT = """
import os, signal, sys, time
from lcfs.commands import background

def daemon(report):
{body}

sys.exit(background.start(daemon, {mountpoint!r}))
"""


def start(tmp_path: Path, body: str, *, mountpoint: str | None = None) -> subprocess.Popen[str]:
    lines = "\n".join("    " + line for line in body.splitlines())
    script = SCRIPT.format(body=lines, mountpoint=mountpoint or str(tmp_path))
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(lcfs.__file__).parent.parent)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_notes_come_out_and_the_parent_ends_while_the_daemon_lives(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    body = f"""
report.note("created ssd.img, 256 MiB")
report.mounted()
assert os.getcwd() == "/"
assert os.getsid(0) == os.getpid()
assert [os.readlink(f"/proc/self/fd/{{n}}") for n in range(3)] == ["/dev/null"] * 3
report.note("nobody listens any more")
while not os.path.exists({str(tmp_path / "end")!r}):
    time.sleep(0.01)
open({str(tmp_path / "ended")!r}, "w").close()
return 0
"""
    parent = start(tmp_path, body)
    out, err = parent.communicate(timeout=30)
    assert (parent.returncode, out, err) == (0, "", "created ssd.img, 256 MiB\n")
    assert not (tmp_path / "ended").exists()
    (tmp_path / "end").touch()
    deadline = time.monotonic() + 30
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_mount_that_does_not_answer_is_no_success(tmp_path: Path) -> None:
    parent = start(tmp_path, "report.mounted()\nreturn 0")
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 32
    assert "is mounted and does not answer: No such file or directory" in err


def test_a_failure_is_told_by_the_parent(tmp_path: Path) -> None:
    parent = start(tmp_path, "report.failed('ssd.img is in use', 32)\nreturn 32")
    _, err = parent.communicate(timeout=30)
    assert (parent.returncode, err) == (32, "lcfs mount: ssd.img is in use\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "the daemon ended before the tree was up"),
        ("os._exit(0)", "the daemon ended before the tree was up"),
        ("raise KeyError('oops')", "KeyError: 'oops'"),
    ],
)
def test_a_daemon_that_dies(body: str, said: str, tmp_path: Path) -> None:
    parent = start(tmp_path, body)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 32
    assert said in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_calling_the_start_off(number: signal.Signals, tmp_path: Path) -> None:
    body = """
def off(number, frame):
    report.failed("called off", 8)
    os._exit(0)
signal.signal(signal.SIGTERM, off)
report.note("starting")
time.sleep(60)
"""
    parent = start(tmp_path, body)
    assert parent.stderr is not None
    assert parent.stderr.readline() == "starting\n"
    parent.send_signal(number)
    _, err = parent.communicate(timeout=30)
    assert (parent.returncode, err) == (8, "lcfs mount: called off\n")


def test_calling_off_a_daemon_that_has_no_handlers_yet(tmp_path: Path) -> None:
    parent = start(tmp_path, 'report.note("starting")\ntime.sleep(60)')
    assert parent.stderr is not None
    assert parent.stderr.readline() == "starting\n"
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 8
    assert "called off" in err


def test_what_the_caller_had_open_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    body = """
open_files = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
report.note(f"{open_files}")
report.mounted()
return 0
"""
    with open(tmp_path / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        parent = start(tmp_path, body)
        _, err = parent.communicate(timeout=30)
    assert err == "[0, 1, 2, 3]\n"
