# SPDX-License-Identifier: GPL-2.0-or-later
"""Formatting a cache image (dm-lc format_cache_device): two superblocks, whatever the size.

dm-lc zeroed the header of every segment. Here records carry the UUID of the cache, so what a former cache left
behind fails its identity check, and formatting takes no longer for 1 TiB than for 1 GiB.
"""

from __future__ import annotations

import uuid as _uuid

import attrs

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import SUPERBLOCK_COPIES, Superblock, pack_superblock
from lcfs.engine.errors import AlreadyThere
from lcfs.engine.geometry import BLOCKS_PER_SEGMENT, SUPERBLOCK_AREA, Geometry
from lcfs.engine.superblock import read_superblocks
from lcfs.engine.tunables import defaults

ALLOCATED = 64 << 10
"""Bytes of each copy's area that formatting writes, so that in a sparse image the disk table has room to grow."""


async def format_image(
    store: BlockStore,
    *,
    cache_id: int = 1,
    uuid: _uuid.UUID | None = None,
    blocks_per_segment: int = BLOCKS_PER_SEGMENT,
) -> Superblock:
    """Make `store` an empty cache. Whatever it held is lost; `require_formattable` asks before.

    Both copies are written and flushed. Raises Unsuitable (size), OSError.
    """
    superblock = Superblock(
        uuid=uuid or _uuid.uuid4(),
        geometry=Geometry.for_size(store.size, blocks_per_segment),
        cache_id=cache_id,
        clean=True,
        tunables=defaults(),
    )
    copies = (await read_superblocks(store)).copies
    newest = max((copy.sequence for copy in copies if isinstance(copy, Superblock)), default=0)
    for sequence in (newest + 1, newest + 2):
        # the copy that is not in force comes first: a crash leaves the former cache or the new one
        superblock = attrs.evolve(superblock, sequence=sequence)
        packed = pack_superblock(superblock)
        await store.write(SUPERBLOCK_COPIES[sequence % 2], [packed, bytes(ALLOCATED - len(packed))])
        await store.flush()
    return superblock


async def require_formattable(store: BlockStore) -> None:
    """Raises AlreadyThere unless the first MiB is all zero or the store is an lcfs image (not in use: we hold it)."""
    copies = (await read_superblocks(store)).copies
    if any(isinstance(copy, Superblock) for copy in copies):
        return
    first = bytearray(min(SUPERBLOCK_AREA, store.size))
    await store.readinto(0, memoryview(first))
    if first.count(0) != len(first):
        raise AlreadyThere(
            f"{store.name} holds data that is not an lcfs cache; "
            f"run `lcfs cache format --force {store.name}` if it is not needed"
        )
