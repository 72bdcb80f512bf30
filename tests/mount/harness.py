# SPDX-License-Identifier: GPL-2.0-or-later
"""lcfs as a person uses it: the real command line in a directory of its own, loop devices, file systems on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lcfs
from tests.plugins.leftovers import remember_bound
from tests.plugins.machine import command_of, is_running, loop_devices
from tests.plugins.requirements import free_loop_device, lacks_loop

Completed = subprocess.CompletedProcess[str]

PATIENCE = 60.0
"""Seconds until a command or a wait is taken to hang; less than a test's own timeout."""


def wait_until(condition: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
    """Poll until `condition` holds; fails the test with `what` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(0.02)


class Lcfs:
    """A directory (empty at first) that commands run in, and what they mounted and bound there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.children: list[subprocess.Popen[str]] = []

    # Commands

    def run(self, *arguments: str | Path, check: bool = True, stdin: str | None = None, timeout: float = PATIENCE) -> Completed:
        """`lcfs arguments...`, ended; with `check` a non-zero exit code fails the test and shows what it said."""
        return self.shell(*self.command(*arguments), check=check, stdin=stdin, timeout=timeout)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`lcfs arguments...`, running, with pipes to it, in a process group of its own for signals."""
        child = subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.children.append(child)
        return child

    def shell(self, *command: str | Path, check: bool = True, stdin: str | None = None, timeout: float = PATIENCE) -> Completed:
        """Any command, run in the directory. Its output goes through files: a daemon it leaves may keep them open."""
        with open(self.directory / ".stdout", "w+") as stdout, open(self.directory / ".stderr", "w+") as stderr:
            code = subprocess.run(
                [str(word) for word in command],
                cwd=self.directory,
                env=self.environment(),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=stdout,
                stderr=stderr,
                text=True,
                timeout=timeout,
            ).returncode
            stdout.seek(0)
            stderr.seek(0)
            done = Completed([str(word) for word in command], code, stdout.read(), stderr.read())
        if check and code != 0:
            pytest.fail(f"{' '.join(done.args)}: exit code {code}\n{done.stdout}{done.stderr}{self.log_tail()}")
        return done

    def command(self, *arguments: str | Path) -> list[str]:
        """The words that run lcfs from this checkout with this interpreter."""
        return [sys.executable, "-m", "lcfs", *(str(argument) for argument in arguments)]

    def environment(self) -> dict[str, str]:
        """Ours, with this checkout's lcfs found from any directory."""
        return os.environ | {"PYTHONPATH": str(Path(lcfs.__file__).parent.parent)}

    # The mount

    def mount(self, *options: str | Path, at: str = "mnt") -> Path:
        """`lcfs mount` in the background; the mount point. Without `--cache` among the options it is on `ssd.img`."""
        mountpoint = self.directory / at
        mountpoint.mkdir(exist_ok=True)
        words = [str(option) for option in options]
        if not any(word == "--cache" or word.startswith("--cache=") for word in words):
            words += ["--cache", "ssd.img"]
        self.run("mount", mountpoint, *words, "--pid-file", self.pid_file(at), "--log", self.log_file(at))
        return mountpoint

    def umount(self, at: str = "mnt") -> None:
        """`lcfs umount`, and the daemon is gone."""
        pid = self.pid(at)
        self.run("umount", self.directory / at)
        wait_until(lambda: not is_running(pid), f"the daemon {pid} to end after umount", patience=5)

    def kill9(self, at: str = "mnt") -> None:
        """SIGKILL to the daemon. Its mount point stays and is dead."""
        pid = self.pid(at)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), f"the daemon {pid} to die")

    def pid_file(self, at: str = "mnt") -> Path:
        """Where the daemon of a mount point was told to write its pid."""
        return self.directory / f"{at}.pid"

    def log_file(self, at: str = "mnt") -> Path:
        """Where the daemon of a mount point was told to log."""
        return self.directory / f"{at}.log"

    def log(self, at: str = "mnt") -> str:
        """What the daemons of a mount point logged so far."""
        return self.log_file(at).read_text()

    def pid(self, at: str = "mnt") -> int:
        """The daemon's pid; fails the test unless that process is an lcfs."""
        pid = int(self.pid_file(at).read_text())
        if "lcfs" not in command_of(pid):
            pytest.fail(f"{self.pid_file(at)} says {pid}, which is {command_of(pid) or 'gone'}, not an lcfs")
        return pid

    # The tree

    def read(self, name: str, at: str = "mnt") -> str:
        """The text of an attribute, without its newline."""
        return (self.directory / at / name).read_text().removesuffix("\n")

    def store(self, name: str, value: str | int, at: str = "mnt") -> None:
        """`echo value > attribute`. Raises the store's OSError."""
        self._one_write(self.directory / at / name, f"{value}\n")

    def message(self, line: str, at: str = "mnt") -> str:
        """A manager message and its answer. Raises the message's OSError."""
        return self._one_write(self.directory / at / "control", line + "\n", answer=True)

    # Loop devices and what is on them

    def losetup(self, file: str | Path, *options: str, direct_io: bool = False) -> str:
        """`losetup -f --show file`: the loop device. A relative `file` is in the directory."""
        if (lack := lacks_loop()) is not None:
            pytest.skip(lack)
        command = ["losetup", "-f", "--show", *options, *(["--direct-io=on"] if direct_io else []), str(file)]
        for _ in range(10):
            free_loop_device()  # makes the node that losetup will ask for
            done = self.shell(*command, check=False)
            if done.returncode == 0:
                device = done.stdout.strip()
                remember_bound(device)
                return device
            if "busy" not in done.stderr.lower():
                break
        pytest.fail(f"{' '.join(command)}: {done.stderr}{self.log_tail()}")

    def detach_loop(self, device: str) -> None:
        """`losetup -d`, and the file is let go."""
        self.shell("losetup", "-d", device)
        wait_until(lambda: device not in loop_devices(), f"{device} to be let go")

    def mkfs(self, device: str, kind: str = "ext4") -> None:
        """A new file system; any that was there is overwritten."""
        options = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"]}[kind]
        self.shell(f"mkfs.{kind}", *options, device)

    def mount_fs(self, device: str, *options: str, at: str = "fs") -> Path:
        """Mount the file system on `device`; its mount point."""
        mountpoint = self.directory / at
        mountpoint.mkdir(exist_ok=True)
        self.shell("mount", *options, device, mountpoint)
        return mountpoint

    def umount_fs(self, at: str = "fs") -> None:
        """Unmount a file system."""
        self.shell("umount", self.directory / at)

    def fsck(self, device: str, kind: str = "ext4") -> None:
        """Check without repairing; anything found fails the test."""
        self.shell(*{"ext4": ["fsck.ext4", "-f", "-n"], "xfs": ["xfs_repair", "-n"]}[kind], device)

    def log_tail(self) -> str:
        """The last of what the daemons logged, for a failure's message."""
        tails = [f"\n{log.name}:\n{log.read_text()[-4000:]}" for log in self.directory.glob("*.log")]
        return "".join(tails)

    @staticmethod
    def _one_write(path: Path, text: str, *, answer: bool = False) -> str:
        """One write(2) to a control file, then what the same open file answers."""
        file = os.open(path, os.O_RDWR if answer else os.O_WRONLY)
        try:
            os.write(file, text.encode())
            return os.read(file, 65536).decode() if answer else ""
        finally:
            os.close(file)
