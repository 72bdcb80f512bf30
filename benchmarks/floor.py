# SPDX-License-Identifier: GPL-2.0-or-later
"""The floors: servers that do nothing. floor.c is built here with gcc, floor_pyfuse3.py is run as it is."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import Trouble, run

HERE = Path(__file__).parent
BUILT = HERE.parent / "build" / "floor"


def build() -> Path:
    """floor.c, compiled. Raises Trouble with what the compiler said."""
    BUILT.parent.mkdir(exist_ok=True)
    try:
        flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
        run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", BUILT, HERE / "floor.c", *flags)
    except (FileNotFoundError, subprocess.SubprocessError) as exc:
        raise Trouble(f"the C floor cannot be built: {exc}") from exc
    return BUILT


@functools.cache
def why_no_c() -> str:
    """Why the C floor cannot be built here; empty when it is built."""
    try:
        build()
    except Trouble as trouble:
        return str(trouble)
    return ""


def c_words(mountpoint: Path, size: int) -> list[str | Path]:
    """The command line of floor.c."""
    return [BUILT, mountpoint, str(size)]


def pyfuse3_words(mountpoint: Path, size: int) -> list[str | Path]:
    """pyfuse3 as it comes."""
    return [sys.executable, HERE / "floor_pyfuse3.py", mountpoint, str(size)]


def drained_words(mountpoint: Path, size: int) -> list[str | Path]:
    """pyfuse3 on lcfs's request loop."""
    return [sys.executable, HERE / "floor_pyfuse3.py", "--drained", mountpoint, str(size)]
