# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks that the images of a mount remember, and which image is believed. No I/O.

Each image's table has the disks attached to that cache. The first cache's has all the others too. What a disk
is attached to is decided by one table alone, that of the cache concerned, because its log is what would be
replayed:

    ITS OWN     a cache's table says "attached to me": so it is.
    GONE        a table says "attached to cache X", X is mounted and does not say so: detached since, or removed
                when its id is another disk's by now.
    ELSEWHERE   a table says "attached to cache X" and X is not mounted: X may hold its newest data, so the disk
                is kept and not used.
    WITHOUT     nobody says that it is attached: a disk without a cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import attrs

from lcfs.engine.disk_format import DiskEntry, Superblock
from lcfs.engine.errors import AlreadyThere


def merge_tables(superblocks: Iterable[Superblock]) -> list[DiskEntry]:
    """One row per disk of the mount, sorted by id.

    Raises AlreadyThere when two disks have the same id.
    """
    tables = list(superblocks)
    mounted = {superblock.uuid for superblock in tables}
    rows: dict[UUID, DiskEntry] = {}
    gone: set[UUID] = set()
    for superblock in tables:
        for disk in superblock.disks:
            if disk.cache_uuid == superblock.uuid:
                rows[disk.uuid] = disk
    for superblock in tables:
        for disk in superblock.disks:
            if disk.uuid in rows:
                continue
            rows[disk.uuid] = disk
            if disk.cache_uuid in mounted:
                gone.add(disk.uuid)
                rows[disk.uuid] = attrs.evolve(disk, cache_uuid=None)
    own_ids = {disk.id for disk in rows.values() if disk.uuid not in gone}
    by_id: dict[int, DiskEntry] = {}
    for disk in rows.values():
        if disk.uuid in gone and disk.id in own_ids:
            # its cache has given the id to another disk since: it was removed there
            continue
        other = by_id.setdefault(disk.id, disk)
        if other is not disk:
            raise AlreadyThere(
                f"two disks have the id {disk.id}: {other.path} and {disk.path}; mount their caches apart and remove one"
            )
    return [by_id[number] for number in sorted(by_id)]
