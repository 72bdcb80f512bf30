# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is measured: each turns a backing file into a disk file, started with the command line a user would type.

All FUSE mounts get the same `max_background` (lcfs raises its own), so that a queue depth of 32 is one everywhere; the
kernel's default of 12 would hold back the others. What is absent is named with its reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import attrs

from benchmarks import floor
from benchmarks.machine import absent, fuse_server, is_mounted, run, server, unmount
from benchmarks.storage import sync
from lcfs.fuse_limits import raise_background_limits

CHECKOUT = Path(__file__).parent.parent
PYTHON_PATH = {"PYTHONPATH": str(CHECKOUT / "src")}


@attrs.frozen
class Disk:
    """A contestant in service."""

    name: str
    path: Path
    """What loads are run on."""
    pids: Sequence[int]
    """Whose processor time it costs; none for the raw file."""
    settle: Callable[[], None]
    """Finish what is put off, so that it does not run while another is measured."""


@attrs.frozen
class Site:
    """Where a contestant works."""

    place: Path
    """A directory of its own."""
    backing: Path
    """The file with its data, `size` bytes."""
    size: int
    cache: Path
    """An image for its cache, if it has one: `cache_size` bytes, written once."""
    cache_size: int


@attrs.frozen
class Contestant:
    """Something that serves a disk."""

    name: str
    what: str
    """One phrase for the report."""
    keeps: bool
    """Whether it keeps what is written; a floor does not."""
    serve: Callable[[Site], AbstractContextManager[Disk]]
    why_absent: Callable[[], str]
    """The reason why it cannot take part here; empty when it can."""
    has_cache: bool = False
    """Whether it uses `Site.cache`."""


def _present() -> str:
    return ""


def equalise(path: Path) -> None:
    """Give a FUSE mount the number of background requests that lcfs gives its own."""
    raise_background_limits(os.minor(path.stat().st_dev))


@contextmanager
def _raw(site: Site) -> Iterator[Disk]:
    yield Disk("raw", site.backing, (), lambda: sync(site.backing))


def _floor(name: str, words: Callable[[Path, int], list[str | Path]]) -> Callable[[Site], AbstractContextManager[Disk]]:
    @contextmanager
    def serve(site: Site) -> Iterator[Disk]:
        mountpoint = site.place / "mnt"
        mountpoint.mkdir()
        disk = mountpoint / "disk"
        log = site.place / "log"
        with fuse_server(words(mountpoint, site.size), log, mountpoint, disk, environment=PYTHON_PATH) as pid:
            equalise(disk)
            yield Disk(name, disk, (pid,), lambda: None)

    return serve


def mount_words(mountpoint: Path, image: Path, backing: Path, *more: str) -> list[str | Path]:
    """`lcfs mount`, staying in the foreground so that its pid is known."""
    words: list[str | Path] = [sys.executable, "-m", "lcfs", "mount", mountpoint, "--cache", image]
    return [*words, "--device", f"1={backing}", *more, "--foreground"]


def lcfs(*words: str | Path) -> str:
    """Output of an lcfs command."""
    return run(sys.executable, "-m", "lcfs", *words, env={**os.environ, **PYTHON_PATH})


@contextmanager
def lcfs_mount(site: Site, *more: str) -> Iterator[Disk]:
    """lcfs with its defaults, on a cache image formatted anew."""
    lcfs("cache", "format", site.cache, "--force")
    with lcfs_remount(site, *more) as disk:
        yield disk


@contextmanager
def lcfs_remount(site: Site, *more: str) -> Iterator[Disk]:
    """lcfs on a cache image as it is."""
    mountpoint = site.place / "mnt"
    mountpoint.mkdir(exist_ok=True)
    disk = mountpoint / "devices" / "1"
    words = mount_words(mountpoint, site.cache, site.backing, *more)
    with fuse_server(words, site.place / "log", mountpoint, disk, environment=PYTHON_PATH) as pid:
        yield Disk("lcfs", disk, (pid,), lambda: set_attribute(mountpoint, "drop_caches", 1))


def set_attribute(mountpoint: Path, name: str, value: int) -> None:
    """echo VALUE > MNT/caches/1/NAME"""
    (mountpoint / "caches" / "1" / name).write_text(f"{value}\n")


def attribute(mountpoint: Path, name: str) -> int:
    """cat MNT/caches/1/NAME"""
    return int((mountpoint / "caches" / "1" / name).read_text())


@contextmanager
def _qemu(site: Site) -> Iterator[Disk]:
    """The export appears over a file: the disk file is a mount point itself."""
    disk = site.place / "disk"
    disk.touch()
    words = [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,node-name=raw,filename={site.backing}"),
        *("--export", f"type=fuse,id=export,node-name=raw,mountpoint={disk},writable=on"),
    ]
    with server(words, site.place / "log", lambda: is_mounted(disk)) as pid:
        equalise(disk)
        try:
            yield Disk("qemu", disk, (pid,), lambda: sync(disk))
        finally:
            unmount(disk)


@contextmanager
def _nbdkit_cache(site: Site) -> Iterator[Disk]:
    """Its cache is a file in TMPDIR as large as the disk, which is on the same file system as everything here."""
    mountpoint, socket = site.place / "mnt", site.place / "socket"
    mountpoint.mkdir()
    disk = mountpoint / "disk"
    words: list[str | Path] = ["nbdkit", "--foreground", "--unix", socket, "--filter=cache", "file", site.backing]
    # a write of 4 KiB does not read 64 KiB first
    words.append("cache-min-block-size=4096")
    environment = {"TMPDIR": str(site.place)}
    with (
        server(words, site.place / "nbdkit.log", socket.exists, environment=environment) as nbdkit,
        fuse_server(["nbdfuse", disk, "--unix", socket], site.place / "nbdfuse.log", mountpoint, disk) as nbdfuse,
    ):
        equalise(disk)
        yield Disk("nbdkit", disk, (nbdkit, nbdfuse), lambda: sync(disk))


ALL: tuple[Contestant, ...] = (
    Contestant("raw", "the file itself, on the same file system", True, _raw, _present),
    Contestant("floor-c", "a C libfuse server that does nothing", False, _floor("floor-c", floor.c_words), floor.why_no_c),
    Contestant(
        "floor-pyfuse3",
        "a pyfuse3 server that does nothing, as it comes",
        False,
        _floor("floor-pyfuse3", floor.pyfuse3_words),
        _present,
    ),
    Contestant(
        "floor-drained",
        "the same on lcfs's request loop",
        False,
        _floor("floor-drained", floor.drained_words),
        _present,
    ),
    Contestant("lcfs", "lcfs, defaults", True, lcfs_mount, _present, has_cache=True),
    Contestant(
        "qemu",
        "qemu-storage-daemon's FUSE export of a raw file",
        True,
        _qemu,
        lambda: absent("qemu-storage-daemon"),
    ),
    Contestant(
        "nbdkit",
        "nbdkit with its cache filter through nbdfuse",
        True,
        _nbdkit_cache,
        lambda: absent("nbdkit", "nbdfuse"),
    ),
)
