# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a test that mounted: everything comes off again, also when the test failed half way.

What there is to take down is read from the kernel's own tables, so a mount or loop device that a test made behind the
back of `Lcfs` (`lcfs device bind`, a mount of its own) comes off too. Each thing is ended by its mount point, device
name or pid. What does not come off as it should is torn off, and the test fails for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import pytest

from tests.mount.harness import PATIENCE, Lcfs
from tests.plugins.leftovers import bound_and_remembered
from tests.plugins.machine import Mount, command_of, is_running, loop_devices, loop_devices_under, mounts_under

T = TypeVar("T")

COMMAND_PATIENCE = PATIENCE / 3
"""Seconds that one command of the end may take."""


def take_down(lcfs: Lcfs) -> None:
    """Newest first: child processes, file systems, loop devices, lcfs mounts, daemons."""
    end = _End(lcfs)
    end.children()
    end.file_systems()
    end.loop_devices()
    end.lcfs_mounts()
    end.daemons()
    if end.troubles:
        pytest.fail("took down by force:\n" + "\n".join(end.troubles) + lcfs.log_tail(), pytrace=False)


def _is_free(device: str) -> bool:
    return device not in loop_devices()


def _has_ended(pid: int) -> bool:
    return not is_running(pid)


def _soon(condition: Callable[[T], bool], what: T) -> bool:
    """Whether `condition` comes to hold of `what` within COMMAND_PATIENCE."""
    deadline = time.monotonic() + COMMAND_PATIENCE
    while not condition(what):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@attrs.define
class _End:
    lcfs: Lcfs
    troubles: list[str] = attrs.field(factory=list)

    def children(self) -> None:
        for child in self.lcfs.children:
            if child.poll() is None:
                child.kill()
            child.communicate()

    def file_systems(self) -> None:
        for mount in self._mounts():
            if not mount.is_lcfs and not self._command("umount", mount.where):
                self._force("umount", "-l", mount.where)

    def loop_devices(self) -> None:
        bound = set(loop_devices_under(self.lcfs.directory)) | bound_and_remembered()
        for device in sorted(bound):
            self._command("losetup", "-d", device)
            if not _soon(_is_free, device):
                self.troubles.append(f"{device} is in use and stays bound until its user lets go")

    def lcfs_mounts(self) -> None:
        for mount in self._mounts():
            if not mount.is_lcfs:
                continue
            if not self._answers(mount):  # dead or hung: nothing is left that `lcfs umount` could ask
                self._kill_daemon(mount.where.name)
                off = self._command("fusermount3", "-u", mount.where)
            else:
                off = self._command(*self.lcfs.command("umount", mount.where))
            if not off:
                self._force("fusermount3", "-u", "-z", mount.where)

    def daemons(self) -> None:
        for pid_file in self.lcfs.directory.glob("*.pid"):
            pid = self._daemon(pid_file.stem)
            if pid is not None and not _soon(_has_ended, pid):
                self._kill_daemon(pid_file.stem)

    def _mounts(self) -> list[Mount]:
        return mounts_under(self.lcfs.directory)[::-1]

    def _answers(self, mount: Mount) -> bool:
        statfs = ["stat", "-f", str(mount.where)]  # which, unlike stat, no kernel answers from its cache
        try:
            return subprocess.run(statfs, capture_output=True, timeout=COMMAND_PATIENCE).returncode == 0
        except subprocess.TimeoutExpired:
            self.troubles.append(f"the daemon of {mount.where} did not answer in {COMMAND_PATIENCE:.0f} s")
            return False

    def _daemon(self, at: str) -> int | None:
        """The pid in the pid file, if that process is still the daemon and not another that got its number."""
        try:
            pid = int(self.lcfs.pid_file(at).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self.lcfs.pid_file(at)) in command_of(pid) else None

    def _kill_daemon(self, at: str) -> None:
        pid = self._daemon(at)
        if pid is not None and is_running(pid):
            self.troubles.append(f"the daemon {pid} of {at} did not end; killed it")
            os.kill(pid, signal.SIGKILL)
            _soon(_has_ended, pid)

    def _command(self, *command: object) -> bool:
        """Run one command of the end; whether it worked. That it did not is a trouble."""
        words: Sequence[str] = [str(word) for word in command]
        environment = self.lcfs.environment()
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=COMMAND_PATIENCE)
        except subprocess.TimeoutExpired:
            self.troubles.append(f"{' '.join(words)}: no end in {COMMAND_PATIENCE:.0f} s")
            return False
        if done.returncode != 0:
            self.troubles.append(f"{' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.returncode == 0

    def _force(self, *command: object) -> None:
        self.troubles.append(" ".join(str(word) for word in command))
        self._command(*command)
