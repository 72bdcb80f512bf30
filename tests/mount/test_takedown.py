# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a test leaves up comes down, and what needs force is not hushed up."""

import subprocess

import pytest

from tests.mount import takedown
from tests.mount.harness import Lcfs, wait_until
from tests.plugins.machine import is_running, loop_devices, mounts_under

pytestmark = pytest.mark.loop


def left_up(lcfs: Lcfs) -> tuple[int, str]:
    """A mounted file system on a loop device on lcfs: the daemon's pid, the loop device."""
    lcfs.mount()
    device = lcfs.losetup("mnt/devices/1")
    lcfs.mkfs(device)
    (lcfs.mount_fs(device) / "file").write_text("text")
    return lcfs.pid(), device


def is_down(lcfs: Lcfs, pid: int, device: str) -> bool:
    return not mounts_under(lcfs.directory) and device not in loop_devices() and not is_running(pid)


def test_all_comes_down(lcfs: Lcfs) -> None:
    pid, device = left_up(lcfs)
    takedown.take_down(lcfs)
    wait_until(lambda: is_down(lcfs, pid, device), "all to be down", patience=10)


def test_all_comes_down_after_the_daemon_was_killed(lcfs: Lcfs) -> None:
    pid, device = left_up(lcfs)
    lcfs.kill9()
    takedown.take_down(lcfs)
    assert is_down(lcfs, pid, device)


def test_force_is_said(lcfs: Lcfs, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, _ = left_up(lcfs)
    monkeypatch.setattr(takedown, "COMMAND_PATIENCE", 2)
    with subprocess.Popen(["sleep", "100"], cwd=lcfs.directory / "fs") as holder:
        try:
            with pytest.raises(pytest.fail.Exception, match=r"by force:\n(.*\n)*umount -l .*/fs\n(.*\n)*.* stays bound"):
                takedown.take_down(lcfs)
        finally:
            holder.kill()
    assert not is_running(pid)
