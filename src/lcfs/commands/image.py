# SPDX-License-Identifier: GPL-2.0-or-later
"""A cache image that is not mounted, as `check` and `dump` read it: with the readers that recovery uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from lcfs.commands.failure import CommandFailed
from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import DiskEntry, Superblock
from lcfs.engine.errors import LcfsError
from lcfs.engine.file_store import FileStorage
from lcfs.engine.superblock import SuperblockCopies

T = TypeVar("T")


def with_image(path: str, work: Callable[[BlockStore], Awaitable[T]], *, readonly: bool = True) -> T:
    """`work`'s result on the image at `path`, locked, and opened for reading unless said otherwise. Raises CommandFailed."""

    async def run() -> T:
        store = await FileStorage().open(path, readonly=readonly)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return trio.run(run)
    except LcfsError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}; look at the device under it") from None


def superblock_errors(copies: SuperblockCopies) -> list[str]:
    """A sentence for each copy that cannot be used."""
    return [
        f"superblock copy {number} cannot be used ({error}); the other is in force, and the next mount writes this anew"
        for number, error in enumerate(copies.copies)
        if isinstance(error, LcfsError)
    ]


def describe(superblock: Superblock) -> dict[str, Any]:
    """The superblock in force, as JSON."""
    return {
        "uuid": str(superblock.uuid),
        "cache_id": superblock.cache_id,
        "nr_segments": superblock.geometry.nr_segments,
        "sequence": superblock.sequence,
        "generation": superblock.generation,
        "generation_start": superblock.generation_start,
        "tail": superblock.tail,
        "head": superblock.head,
        "clean": superblock.clean,
        "tunables": superblock.tunables,
        "disks": [_describe_disk(disk) for disk in superblock.disks],
    }


def _describe_disk(disk: DiskEntry) -> dict[str, Any]:
    return {
        "id": disk.id,
        "name": disk.name,
        "uuid": str(disk.uuid),
        "size": disk.size,
        "path": disk.path,
        "cache_uuid": str(disk.cache_uuid) if disk.cache_uuid is not None else None,
        "attached_at": disk.attached_at,
        "migrate_threshold": disk.migrate_threshold,
    }
