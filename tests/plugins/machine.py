# SPDX-License-Identifier: GPL-2.0-or-later
"""What this machine is and has: CI or not, mounts, loop devices and processes as /proc and /sys say it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs


@attrs.frozen
class Mount:
    """A line of /proc/self/mountinfo."""

    where: Path
    kind: str
    source: str

    @property
    def is_lcfs(self) -> bool:
        return self.kind == "fuse.lcfs"


def in_ci() -> bool:
    """Whether nobody is there to read a skip's reason."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def mounts_under(top: Path) -> list[Mount]:
    """Mounts at or below `top`, oldest first: taken down in reverse, each comes off before what it stands on."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        where = Path(_unescape(left.split(" ")[4]))
        kind, source, *_ = right.split(" ")
        if where.is_relative_to(top):
            found.append(Mount(where, kind, _unescape(source)))
    return found


def loop_devices_under(top: Path) -> dict[str, Path]:
    """`/dev/loopN` -> the file below `top` that it is bound to."""
    return {device: file for device, file in loop_devices().items() if file.is_relative_to(top)}


def loop_devices() -> dict[str, Path]:
    """`/dev/loopN` -> the file it is bound to, which shows only from its mount's root once that was detached lazily."""
    found = {}
    for directory in Path("/sys/block").glob("loop*"):
        try:
            file = (directory / "loop/backing_file").read_text(errors="surrogateescape")
        except OSError:
            continue  # not bound, or let go just now
        found[f"/dev/{directory.name}"] = Path(file.rstrip("\n"))
    return found


def diskseq(device: str) -> int:
    """A number that the block device gets anew, and that no other gets, whenever it is bound or let go."""
    return int(Path("/sys/block", Path(device).name, "diskseq").read_text())


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def command_of(pid: int) -> str:
    """The command line of a process, words joined by spaces; empty when it is gone."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")).strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
