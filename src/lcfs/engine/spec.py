# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mount is asked to bring up."""

from __future__ import annotations

import attrs

from lcfs.engine.disk_format import MAX_NAME
from lcfs.engine.errors import Invalid
from lcfs.engine.geometry import MAX_ID, MAX_LINES, SECTOR, SUPERBLOCK_AREA

DEFAULT_CACHE_SIZE = 256 << 20
DEFAULT_DISK_SIZE = 1 << 30


@attrs.frozen
class CacheSpec:
    """A cache image: created with `size` bytes when it does not exist."""

    path: str
    id: int | None = None
    """None: the id the image remembers, or the lowest free one."""
    size: int | None = None


@attrs.frozen
class DeviceSpec:
    """A disk: its backing is created with `size` bytes when it does not exist."""

    path: str
    id: int | None = None
    size: int | None = None
    cache: int | None = None
    """Id of its cache; 0: none; None: the first, or what the image remembers."""
    name: str | None = None


@attrs.frozen
class MountSpec:
    """Everything `open_manager` needs to know."""

    caches: tuple[CacheSpec, ...]
    devices: tuple[DeviceSpec, ...] = ()
    cache_size: int = DEFAULT_CACHE_SIZE
    readonly: bool = False
    default_disk: bool = True
    """Make a disk for an image that never had one."""


def check_id(kind: str, number: int) -> int:
    """`number` if it is an id; raises Invalid. 0 is reserved: no cache, no disk (B15, B30)."""
    if not 1 <= number <= MAX_ID:
        raise Invalid(f"{kind} id {number} is not possible; ids are 1 to {MAX_ID}")
    return number


def check_name(name: str) -> str:
    """`name` if a disk may have it; raises Invalid."""
    if not 1 <= len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME or "/" in name or not name.isprintable():
        raise Invalid(f"{name[:80]!r} is no name for a disk: 1 to {MAX_NAME} bytes, no slash, no line break")
    return name


def check_disk_size(size: int) -> int:
    """`size` if a disk may have it; raises Invalid."""
    if size < SECTOR or size % SECTOR or size > MAX_LINES * 4096:
        raise Invalid(f"a disk of {size} bytes is not possible; give a multiple of {SECTOR}, at most 16 TiB")
    return size


def check_cache_size(size: int) -> int:
    """`size` if a cache image may have it; raises Invalid."""
    if size < 2 * SUPERBLOCK_AREA or size > 16 << 40:
        raise Invalid(f"a cache of {size} bytes is not possible; give 2 MiB to 16 TiB")
    return size


def free_id(kind: str, used: set[int]) -> int:
    """The lowest id that is not used; raises Invalid when all are."""
    for number in range(1, MAX_ID + 1):
        if number not in used:
            return number
    raise Invalid(f"all {MAX_ID} {kind} ids are used; remove one first")
