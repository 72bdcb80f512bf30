# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that contestants work on, and files that are slow or limited: nbdkit's filters through nbdfuse."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import absent, fuse_server, server

MIB = 1 << 20
_ZEROS = bytes(MIB)

SLOW_DELAY_MS = 8
"""A seek and half a turn of a disk; a network volume across a town."""


def written_file(path: Path, size: int) -> Path:
    """A file of zeros whose every block is allocated and in the page cache.

    A contestant that writes to fresh blocks, or to memory that a virtual machine has not touched before, is measured
    for that: here it costs thirty times the write itself.
    """
    with path.open("wb", buffering=0) as file:
        for done in range(0, size, MIB):
            file.write(_ZEROS[: size - done])
        os.fsync(file.fileno())
    return path


def sparse_file(path: Path, size: int) -> Path:
    """A file of holes, a new one: an older one may carry the label of a disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def sync(path: Path | str) -> None:
    """fsync(2): what is dirty of the file is written back now, and not while another is measured."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def why_no_nbd() -> str:
    """What is missing for the two below."""
    return absent("nbdkit", "nbdfuse")


@contextmanager
def slow_disk(place: Path, data: Path) -> Iterator[Path]:
    """`data` as a disk that takes SLOW_DELAY_MS for each request of up to 1 MiB, one at a time."""
    delay = f"{SLOW_DELAY_MS}ms"
    words = ["--filter=noparallel", "--filter=delay", "file", str(data), "serialize=all-requests"]
    with _through_nbd(place, [*words, f"rdelay={delay}", f"wdelay={delay}"]) as disk:
        yield disk


@contextmanager
def limited_ssd(place: Path, data: Path, bytes_per_second: int) -> Iterator[Path]:
    """`data` as a disk that takes no more than so much, each way.

    Its allowance for bursts is a quarter of a second instead of two: a second's writes would otherwise go unlimited.
    """
    words = ["--filter=rate", "file", str(data), f"rate={bytes_per_second * 8}", "burstiness=0.25"]
    with _through_nbd(place, words) as disk:
        yield disk


@contextmanager
def _through_nbd(place: Path, words: Sequence[str]) -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    address = place / "socket"
    address.unlink(missing_ok=True)
    mountpoint = place / "mnt"
    mountpoint.mkdir(exist_ok=True)
    disk = mountpoint / "disk"
    with (
        server(["nbdkit", "--foreground", "--unix", address, *words], place / "nbdkit.log", lambda: _listens(address)),
        fuse_server(["nbdfuse", disk, "--unix", address], place / "nbdfuse.log", mountpoint, disk),
    ):
        yield disk


def _listens(address: Path) -> bool:
    """Whether a server takes connections there. On a busy machine the socket has its name well before that."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(address))
        except OSError:
            return False
        return True
