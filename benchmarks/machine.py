# SPDX-License-Identifier: GPL-2.0-or-later
"""What the harness starts and takes down again, each by its own id: processes, FUSE mounts, loop devices.

Everything here is a context manager; leaving it, also by an exception or Ctrl-C, ends what it began.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_PATIENCE = 60.0
"""Seconds that a server may take until it answers."""
END_PATIENCE = 60.0
"""Seconds that it may take to write what it holds and end, before it is killed."""

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Trouble(Exception):
    """Something the harness needs did not work; the message says what, with the end of its log."""


def run(*words: str | Path, **options: object) -> str:
    """Standard output of a command. Raises Trouble with what it said when it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise Trouble(f"{' '.join(str(word) for word in words)}: exit code {done.returncode}: {said[-1000:]}")
    return str(done.stdout)


def absent(*commands: str) -> str:
    """Which of these commands are not installed, as a reason for a report; empty when all are."""
    missing = [command for command in commands if shutil.which(command) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def soon(condition: Callable[[], bool], patience: float) -> bool:
    """Whether `condition` comes to hold within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _end_with_parent() -> None:
    """In the child: SIGTERM when the harness dies, so that nothing is left behind even by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def server(
    words: Sequence[str | Path], log: Path, ready: Callable[[], bool], *, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A process that stays in the foreground; its pid once `ready`. SIGTERM ends it."""
    with log.open("w") as log_file:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            preexec_fn=_end_with_parent,
        )
    try:
        if not soon(lambda: process.poll() is not None or ready(), START_PATIENCE) or process.poll() is not None:
            raise Trouble(f"{words[0]} did not start: {log.read_text()[-1000:].strip() or 'it said nothing'}")
        yield process.pid
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    wanted = str(path).replace(" ", "\\040")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split(" ")[1] == wanted for line in mounts)


@contextmanager
def fuse_server(
    words: Sequence[str | Path], log: Path, mountpoint: Path, answers: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A FUSE server in the foreground, mounted on `mountpoint`; its pid once `answers` can be stat'ed there.

    Ended by an unmount, as a person would; it may then write what it holds.
    """

    def ready() -> bool:
        try:
            return is_mounted(mountpoint) and answers.stat().st_size > 0
        except OSError:
            return False

    with server(words, log, ready, environment=environment) as pid:
        try:
            yield pid
        finally:
            unmount(mountpoint)
            # whoever does not end on being unmounted is told by `server`
            soon(lambda: has_ended(pid), END_PATIENCE / 4)


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as status:
            return status.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def unmount(mountpoint: Path) -> None:
    """Take the mount away: plainly where that works, else from whoever holds it."""
    for words in (("umount", mountpoint), ("fusermount3", "-u", mountpoint), ("umount", "-l", mountpoint)):
        if not is_mounted(mountpoint):
            return
        with suppress(Trouble):
            run(*words)


@contextmanager
def mounted(device: str, mountpoint: Path, *options: str) -> Iterator[Path]:
    """A file system of a loop device; unmounted on leaving."""
    mountpoint.mkdir(exist_ok=True)
    run("mount", *options, device, mountpoint)
    try:
        yield mountpoint
    finally:
        unmount(mountpoint)


@contextmanager
def loop_device(file: Path, *, direct: bool) -> Iterator[str]:
    """A loop device bound to `file`, with direct I/O or without."""
    device = run("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", file).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
        # the kernel lets go of the file a moment later
        soon(lambda: not Path(f"/sys/block/{Path(device).name}/loop").exists(), END_PATIENCE)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Seconds of processor time that these processes have used, all their threads, ended ones too."""
    return sum(sum(_times(pid)) for pid in pids)


def user_and_system(pid: int) -> tuple[float, float]:
    """The same for one process, in user mode and in the kernel."""
    return _times(pid)


def _times(pid: int) -> tuple[float, float]:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as status:
        fields = status.read().rsplit(")", 1)[1].split()
    return int(fields[11]) * _TICK, int(fields[12]) * _TICK
