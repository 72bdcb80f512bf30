# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be done about the damage of an image that is not in use. `docs/errors.md` says what is done, what not, and why.

Both repairs are commits of a superblock, first into the copy that is not in force: a crash leaves the old state or the new
one. Nothing else of the image is ever written, so what a repair gives up still lies there.
"""

from __future__ import annotations

import attrs

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import SUPERBLOCK_COPIES, Superblock, pack_superblock
from lcfs.engine.errors import Invalid
from lcfs.engine.inspection import Inspection
from lcfs.engine.log_reader import Verdict


async def restore_superblock(store: BlockStore, found: Inspection) -> str:
    """Write the damaged copy anew from the good one and what the log says. Raises Invalid, OSError."""
    if found.superblock is None or len(found.copies.damaged) != 1:
        raise Invalid(f"{store.name} has no damaged copy of a superblock beside a good one")
    (number,) = found.copies.damaged
    await _commit(store, found.superblock, number)
    return f"superblock copy {number} was written anew from copy {1 - number}"


async def cut_log(store: BlockStore, found: Inspection) -> str:
    """End the log at its HOLE, as a recovery ends it at a torn tail. Raises Invalid where there is no hole, OSError.

    What lies behind is of an abandoned timeline then, and is never replayed. A disk that was attached behind the hole
    counts as attached at the cut: positions begin again there, and its new lines must not pass for older ones.
    """
    superblock = found.superblock
    if superblock is None or found.verdict is not Verdict.HOLE or found.lost is None:
        raise Invalid(f"the log of {store.name} has no hole to be cut at")
    geometry = superblock.geometry
    cut = attrs.evolve(
        superblock,
        generation=superblock.generation + 1,
        generation_start=geometry.position(found.last_segment + 1, 0),
        head=found.end,
        clean=False,
        disks=tuple(attrs.evolve(disk, attached_at=min(disk.attached_at, found.end)) for disk in superblock.disks),
    )
    # the copy that is not in force first; then the other, so that the loss of the first does not bring the hole back
    cut = await _commit(store, cut, 1 - found.in_force)
    await _commit(store, cut, found.in_force)
    segment_id, block = divmod(found.end, geometry.blocks_per_segment)
    return f"the log ends at segment {segment_id}, block {block} now; given up: {found.lost}"


async def _commit(store: BlockStore, superblock: Superblock, number: int) -> Superblock:
    """Make `superblock` durable in copy `number`, newer than any other; as it was written."""
    # copies are written alternately, by their sequence
    sequence = superblock.sequence + 1
    sequence += (sequence ^ number) & 1
    superblock = attrs.evolve(superblock, sequence=sequence)
    await store.write(SUPERBLOCK_COPIES[number], [pack_superblock(superblock)])
    await store.flush()
    return superblock
