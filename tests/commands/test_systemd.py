# SPDX-License-Identifier: GPL-2.0-or-later
"""The units, and a daemon that talks to a service manager from inside what the unit leaves it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcfs.commands.mounts import mount_at
from lcfs.commands.service import Notifier
from tests.mount.harness import Lcfs

UNITS = Path(__file__).parent.parent.parent / "systemd"
NAMES = ("lcfs@.service", "lcfs.service")
LCFS = Path(sys.executable).with_name("lcfs")

EXPOSURE = 5.0
"""systemd-analyze's score; it calls what is below it OK. A service that mounts for all cannot have a namespace."""

PR_SET_MDWE = 65
"""What MemoryDenyWriteExecute= is since Linux 6.3."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed; install it")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as installed: with an lcfs that is there."""
    for name in NAMES:
        text = (UNITS / name).read_text()
        assert "=lcfs " in text
        (tmp_path / name).write_text(text.replace("=lcfs ", f"={LCFS} "))
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(name: str, units: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", units / name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_the_units_are_closed_as_far_as_a_mount_lets_them(name: str, units: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", units / name]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
    score = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert score is not None
    assert float(score[1]) < EXPOSURE


def settings(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text().splitlines()
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}


class Manager:
    """The socket of a service manager, and what arrived there."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)
        self.path = path
        self.heard: list[str] = []

    def hear(self, wanted: str) -> str:
        """Read on until a line begins with `wanted`; that line."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lines = self._socket.recv(65536).decode().splitlines()
            self.heard += lines
            for line in lines:
                if line.startswith(wanted):
                    return line
        pytest.fail(f"{wanted} never came; {self.heard}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Something that listens where NOTIFY_SOCKET says."""
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def deny_write_execute() -> None:
    ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0)  # older kernels know nothing of it


def start(lcfs: Lcfs, manager: Manager, *before: str | Path) -> subprocess.Popen[str]:
    (lcfs.directory / "mnt").mkdir()
    words = [*map(str, before), *lcfs.command("mount", "mnt", "--cache", "ssd.img", "--foreground")]
    child = subprocess.Popen(
        words,
        cwd=lcfs.directory,
        env=lcfs.environment() | {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "300000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=deny_write_execute,
    )
    lcfs.children.append(child)
    return child


def end(lcfs: Lcfs, child: subprocess.Popen[str]) -> str:
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert mount_at(str(lcfs.directory / "mnt")) is None
    return said


def test_a_service_tells_how_it_goes(lcfs: Lcfs, manager: Manager) -> None:
    child = start(lcfs, manager)
    manager.hear("READY=1")
    assert (lcfs.directory / "mnt/control").exists(), "ready, and the tree answers"
    assert manager.hear("STATUS=cache 1 running, 0 dirty lines")
    manager.hear("WATCHDOG=1")
    manager.hear("WATCHDOG=1")
    with open(lcfs.directory / "mnt/devices/1", "r+b", buffering=0) as disk:
        os.kill(child.pid, signal.SIGTERM)
        manager.hear("STOPPING=1")
        assert f"({os.getpid()})" in manager.hear("STATUS=stopping, busy: in use by")
        manager.hear("WATCHDOG=1")
        assert disk.write(b"x" * 4096) == 4096
    manager.hear("EXTEND_TIMEOUT_USEC=60000000")
    said = end(lcfs, child)
    assert "<6>" in said
    assert "<4>" in said, "a warning that it is busy"


def test_a_start_that_fails_says_why(lcfs: Lcfs, manager: Manager) -> None:
    (lcfs.directory / "ssd.img").write_text("not a cache image\n" * 1000)
    child = start(lcfs, manager)
    assert "is not an lcfs cache image" in manager.hear("STATUS=")
    child.communicate(timeout=60)
    assert child.returncode == 32
    assert "READY=1" not in manager.heard


@pytest.mark.skipif(os.geteuid() != 0, reason="not root, so there are no capabilities to take away; run as root")
@pytest.mark.loop
def test_what_the_unit_leaves_is_enough(lcfs: Lcfs, manager: Manager) -> None:
    """Capabilities and no_new_privs as the unit sets them, and every system call is one it lets through."""
    unit = settings("lcfs@.service")
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"].split())
    trace = lcfs.directory / "trace"
    child = start(
        lcfs,
        manager,
        *("setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"),
        *("strace", "-f", "-qq", "-o", trace),
    )
    manager.hear("READY=1")
    loop = lcfs.losetup("mnt/devices/1")
    lcfs.mkfs(loop)
    lcfs.detach_loop(loop)
    lcfs.shell("umount", lcfs.directory / "mnt")
    end(lcfs, child)
    used = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace.read_text(), re.MULTILINE))
    assert {"mount", "fsync", "read"} & used
    sets = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert used <= allowed(sets, unit["SystemCallFilter"].split())


def allowed(sets: str, names: list[str]) -> set[str]:
    """The system calls in the named groups, which may hold each other."""
    members: dict[str, list[str]] = {}
    for line in sets.splitlines():
        if line.startswith("@"):
            members[line.strip()] = group = []
        elif line.startswith("    ") and "#" not in line:
            group.append(line.strip())
    found: set[str] = set()
    todo = [*names, "@default"]
    while todo:
        name = todo.pop()
        if name.startswith("@"):
            todo += members[name]
        else:
            found.add(name)
    return found


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    quiet = Notifier({})
    assert not quiet
    quiet.tell("READY=1")
    deaf = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    deaf.tell("READY=1")
    assert deaf.watchdog is None, "somebody else is watched"
