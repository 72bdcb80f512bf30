# SPDX-License-Identifier: GPL-2.0-or-later
"""Real mounts: how a daemon starts, is refused, is found and ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from lcfs.commands.mounts import lcfs_mounts, mount_at
from tests.commands.bytes_of import first_bytes
from tests.mount.harness import Lcfs, wait_until
from tests.plugins.machine import is_running

pytestmark = pytest.mark.mount


def here(lcfs: Lcfs) -> list[str]:
    """The files in the directory that lcfs made, or that the test put there."""
    return sorted(name for name in os.listdir(lcfs.directory) if not name.startswith("."))


def refused(lcfs: Lcfs, *words: str | Path, code: int = 32) -> str:
    """The sentence of a mount that is refused and has changed nothing."""
    before = here(lcfs)
    done = lcfs.run("mount", *words, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert here(lcfs) == before
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("lcfs mount: ")
    return lines[-1].removeprefix("lcfs mount: ")


def test_the_first_mount_says_what_it_creates(lcfs: Lcfs) -> None:
    (lcfs.directory / "mnt").mkdir()
    done = lcfs.run("mount", "mnt", "--cache", "ssd.img")
    assert done.stdout == ""
    assert str(lcfs.directory / "ssd.img") in done.stderr
    assert str(lcfs.directory / "ssd.disk1.img") in done.stderr
    assert (lcfs.directory / "ssd.img").stat().st_size == 256 << 20
    assert (lcfs.directory / "mnt/devices/1").stat().st_size == 1 << 30
    lcfs.run("umount", "mnt")
    again = lcfs.run("mount", "mnt", "--cache", "ssd.img")
    assert (again.stdout, again.stderr) == ("", "")
    lcfs.run("umount", "mnt")


def test_umount_returns_when_the_daemon_is_gone(lcfs: Lcfs) -> None:
    lcfs.mount()
    pid = lcfs.pid()
    assert json.loads(lcfs.run("status", "mnt", "--json").stdout)["mounts"][0]["pid"] == pid
    lcfs.run("umount", "mnt")
    assert not is_running(pid)
    assert not lcfs.pid_file().exists()
    assert "stopped cleanly" in lcfs.log()
    gone = lcfs.run("umount", "mnt", check=False)
    assert gone.returncode == 32
    assert "mnt is not a mounted lcfs" in gone.stderr


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_an_unmount_from_outside_ends_the_daemon_cleanly(command: list[str], lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    pid = lcfs.pid()
    lcfs.shell(*command, mountpoint)
    wait_until(lambda: not is_running(pid), "the daemon to end")
    assert "stopped cleanly" in lcfs.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_what_umount_does(number: signal.Signals, lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    pid = lcfs.pid()
    os.kill(pid, number)
    wait_until(lambda: not is_running(pid), "the daemon to end")
    assert mount_at(str(mountpoint)) is None
    assert "stopped cleanly" in lcfs.log()


def test_busy_is_served_on_until_it_is_free(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    pid = lcfs.pid()
    with open(mountpoint / "devices/1", "r+b", buffering=0) as disk:
        busy = lcfs.run("umount", "mnt", check=False)
        assert busy.returncode == 32
        assert f"{mountpoint} is busy: in use by" in busy.stderr
        assert f"({os.getpid()})" in busy.stderr
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "is busy and is served on" in lcfs.log(), "the daemon to say that it is busy")
        assert disk.write(b"x" * 4096) == 4096
        assert is_running(pid)
    wait_until(lambda: not is_running(pid), "the daemon to end when the tree is free")
    lcfs.mount()
    assert first_bytes(mountpoint / "devices/1", 4096) == b"x" * 4096


def test_a_second_signal_takes_the_tree_away_and_loses_nothing(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    pid = lcfs.pid()
    disk = os.open(mountpoint / "devices/1", os.O_RDWR)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "is busy and is served on" in lcfs.log(), "the daemon to say that it is busy")
    assert os.pwrite(disk, b"y" * 4096, 0) == 4096
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), "the daemon to end")
    with pytest.raises(OSError) as gone:
        os.pread(disk, 512, 1 << 20)
    assert gone.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with contextlib.suppress(OSError):
        os.close(disk)
    assert mount_at(str(mountpoint)) is None
    lcfs.mount()
    assert first_bytes(mountpoint / "devices/1", 4096) == b"y" * 4096


@pytest.mark.loop
def test_umount_names_the_loop_device(lcfs: Lcfs) -> None:
    lcfs.mount()
    loop = lcfs.losetup("mnt/devices/1")
    busy = lcfs.run("umount", "mnt", check=False)
    assert busy.returncode == 32
    assert f"is busy: {loop} still bound to it" in busy.stderr
    assert f"losetup -d {loop}" in busy.stderr
    lcfs.detach_loop(loop)
    lcfs.umount()


def test_the_next_mount_cleans_a_dead_one_up(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    lcfs.kill9()
    status = json.loads(lcfs.run("status", "mnt", "--json").stdout)["mounts"][0]
    assert (status["state"], status["pid"], status["caches"]) == ("dead", None, None)
    done = lcfs.run("mount", "mnt", "--cache", "ssd.img", "--pid-file", lcfs.pid_file(), "--log", lcfs.log_file())
    assert f"took away the dead mount at {mountpoint}" in done.stderr
    assert [mount.mountpoint for mount in lcfs_mounts()].count(str(mountpoint)) == 1
    lcfs.umount()


def test_umount_of_a_dead_mount(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount()
    lcfs.kill9()
    assert "was gone; took the dead mount away" in lcfs.run("umount", "mnt").stderr
    assert mount_at(str(mountpoint)) is None


def test_mount_points_that_are_refused(lcfs: Lcfs) -> None:
    (lcfs.directory / "full").mkdir()
    (lcfs.directory / "full/file").touch()
    (lcfs.directory / "a file").touch()
    assert "nowhere does not exist; create it with: mkdir -p" in refused(lcfs, "nowhere", "--cache", "ssd.img")
    assert "is not empty (it has file)" in refused(lcfs, "full", "--cache", "ssd.img")
    assert "is not a directory" in refused(lcfs, "a file", "--cache", "ssd.img")
    lcfs.mount()
    assert "is a mounted lcfs already" in refused(lcfs, "mnt", "--cache", "other.img")
    assert "which would hide it" in refused(lcfs, ".", "--cache", "ssd.img", "-o", "nonempty")


def test_nonempty_is_allowed_when_asked_for(lcfs: Lcfs) -> None:
    (lcfs.directory / "mnt").mkdir()
    (lcfs.directory / "mnt/file").touch()
    lcfs.mount("-o", "nonempty")
    assert "devices" in os.listdir(lcfs.directory / "mnt")
    lcfs.umount()
    assert os.listdir(lcfs.directory / "mnt") == ["file"]


def test_images_that_are_refused(lcfs: Lcfs) -> None:
    (lcfs.directory / "mnt").mkdir()
    (lcfs.directory / "text").write_text("not a cache image\n" * 1000)
    (lcfs.directory / "big").write_bytes(os.urandom(4 << 20))
    (lcfs.directory / "empty").touch()
    os.mkfifo(lcfs.directory / "fifo")
    for image in ("text", "big"):
        assert "is not an lcfs cache image and is left as it is" in refused(lcfs, "mnt", "--cache", image)
    assert "is empty" in refused(lcfs, "mnt", "--cache", "empty")
    assert "is a directory" in refused(lcfs, "mnt", "--cache", "/tmp")
    assert "is a special file" in refused(lcfs, "mnt", "--cache", "fifo")
    assert "the directory of" in refused(lcfs, "mnt", "--cache", "no/where/ssd.img")
    assert "given as cache image and as disk" in refused(lcfs, "mnt", "--cache", "a", "--device", "a")
    assert "is given twice" in refused(lcfs, "mnt", "--cache", "a", "--cache", "a")
    assert "give 2 MiB to 16 TiB" in refused(lcfs, "mnt", "--cache", "a", "--cache-size", "1M")
    assert "is not mounted here" in refused(lcfs, "mnt", "--cache", "a", "--device", "b,cache=7")


def test_an_image_in_use_is_refused(lcfs: Lcfs) -> None:
    lcfs.mount()
    (lcfs.directory / "second").mkdir()
    assert "ssd.img is in use by an lcfs" in refused(lcfs, "second", "--cache", "ssd.img")
    assert "is in use" in refused(lcfs, "second", "--cache", "b.img", "--device", "ssd.disk1.img")


def test_files_that_cannot_be_written(lcfs: Lcfs) -> None:
    (lcfs.directory / "mnt").mkdir()
    for path in (lcfs.directory / "no/where", lcfs.directory / "mnt"):
        for option in ("--log", "--pid-file"):
            assert f"{path} cannot be written" in refused(lcfs, "mnt", "--cache", "ssd.img", option, path)


def test_a_refused_mount_makes_no_log_and_leaves_another_ones_pid_file(lcfs: Lcfs) -> None:
    lcfs.mount()
    (lcfs.directory / "second").mkdir()
    pid = lcfs.pid_file().read_text()
    words = ("--pid-file", lcfs.pid_file(), "--log", "new.log")
    assert "in use by an lcfs" in refused(lcfs, "second", "--cache", "ssd.img", *words)
    assert lcfs.pid_file().read_text() == pid


def test_a_line_of_fstab(lcfs: Lcfs) -> None:
    mountpoint = lcfs.directory / "mnt"
    mountpoint.mkdir()
    lcfs.run(lcfs.directory / "ssd.img", mountpoint, "-o", "rw,noauto,user,nofail,x-systemd.automount,dev,suid,mode=0640")
    assert (mountpoint / "devices/1").stat().st_mode & 0o777 == 0o640
    mount = mount_at(str(mountpoint))
    assert mount is not None
    assert (mount.fs_type, mount.source) == ("fuse.lcfs", str(lcfs.directory / "ssd.img"))
    lcfs.run("umount", mountpoint)


def test_source_with_odd_characters(lcfs: Lcfs) -> None:
    mountpoint = lcfs.directory / "a mount, point"
    mountpoint.mkdir()
    lcfs.run("mount", mountpoint, "--cache", "./odd,= \\name.img")
    mount = mount_at(str(mountpoint))
    assert mount is not None
    assert mount.source == str(lcfs.directory / "odd,= \\name.img")
    lcfs.run("umount", mountpoint)


def test_owner_and_mode(lcfs: Lcfs) -> None:
    mountpoint = lcfs.mount("-o", "uid=12,gid=34,mode=660")
    for name in ("devices/1", "control", "status"):
        status = (mountpoint / name).stat()
        assert (status.st_uid, status.st_gid) == (12, 34)
    assert (mountpoint / "control").stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_ends_with_a_signal(number: signal.Signals, lcfs: Lcfs) -> None:
    mountpoint = lcfs.directory / "mnt"
    mountpoint.mkdir()
    child = lcfs.start("mount", "mnt", "--cache", "ssd.img", "--live")
    # what to do next is said when it is up; before that a signal calls the start off, which is another ending
    assert child.stderr is not None
    err = ""
    while "losetup" not in err and (line := child.stderr.readline()):
        err += line
    assert mount_at(str(mountpoint)) is not None
    child.send_signal(number)
    out, rest = child.communicate(timeout=60)
    err += rest
    assert (child.returncode, out) == (0, ""), err
    assert "losetup -f --show --direct-io=on mnt/devices/1" in err
    assert "stopped cleanly" in err
    assert "\x1b" not in err, "no live line where there is no terminal"


def test_a_closed_terminal_is_a_clean_stop(lcfs: Lcfs) -> None:
    mountpoint = lcfs.directory / "mnt"
    mountpoint.mkdir()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(lcfs.directory)
        words = lcfs.command("mount", "mnt", "--cache", "ssd.img", "--live", "--log", lcfs.log_file())
        os.execve(words[0], words, lcfs.environment())
    try:
        said = b""
        while b"\x1b[Kcache 1 running" not in said:
            said += os.read(terminal, 4096)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert mount_at(str(mountpoint)) is None
    assert "SIGHUP: stopping" in lcfs.log()
    assert "stopped cleanly" in lcfs.log()


def test_the_callers_session_may_end(lcfs: Lcfs) -> None:
    """The daemon holds neither the caller's streams nor its process group nor its directory."""
    (lcfs.directory / "mnt").mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            lcfs.command("mount", "mnt", "--cache", "ssd.img", "--pid-file", lcfs.pid_file()),
            cwd=lcfs.directory,
            env=lcfs.environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            check=True,
            timeout=60,
        )
        theirs.close()
        ours.settimeout(10)
        while ours.recv(4096):
            pass
    pid = lcfs.pid()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    lcfs.umount()
