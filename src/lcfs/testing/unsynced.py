# SPDX-License-Identifier: GPL-2.0-or-later
"""What a loss of power may do to writes that no flush has covered.

The fault model, for one store: a write may reach the medium from the moment it is issued; it surely has
when a flush returned that began after the write returned. Until then any of its 512-byte sectors may be
there or not, each for itself (a torn write), whatever became of writes before and after it. Where
unsynced writes overlap, a sector holds the durable version or that of any one of them: reordering two
writes equals losing the later one. A medium takes whole sectors: what is written to a part of one goes
there with the rest of the sector as it was read then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import attrs

from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing.image import SparseImage


def whole_sectors(offset: int, data: bytes, image: SparseImage) -> tuple[int, bytes]:
    """The same write, grown to whole sectors by what `image` holds around it."""
    end = offset + len(data)
    first = offset // SECTOR * SECTOR
    stop = min(-(-end // SECTOR) * SECTOR, image.size)
    if first == offset and stop == end:
        return offset, data
    return first, image.read(first, offset - first) + data + image.read(end, stop - end)


@attrs.define(eq=False)
class UnsyncedWrite:
    """One write that may or may not outlive a loss of power; whole sectors, but for the end of the store."""

    offset: int
    data: bytes
    applied: int = 0
    """When the store took it, in the order of the store's writes; 0: it has not returned yet."""

    @property
    def nr_sectors(self) -> int:
        """Sectors it covers."""
        return -(-len(self.data) // SECTOR)

    def pieces(self, kept: int) -> Iterable[tuple[int, bytes]]:
        """`(offset, data)` of the sectors in the mask `kept`; bit 0 is the first one."""
        for i in range(self.nr_sectors):
            if kept >> i & 1:
                yield self.offset + i * SECTOR, self.data[i * SECTOR : (i + 1) * SECTOR]


ALL = -1
"""Survival of every sector of a write."""
Survival = Sequence[int]
"""Per unsynced write, in their order, the mask of its sectors that reached the medium; ALL, or 0 for none."""
Choose = Callable[[Sequence[UnsyncedWrite]], Survival]
"""Decides what survives."""


def apply_survivors(image: SparseImage, writes: Sequence[UnsyncedWrite], survival: Survival) -> None:
    """Bring what survives into `image`, the durable content at the time of the crash."""
    for write, kept in zip(writes, survival, strict=True):
        if kept == ALL:
            image.write(write.offset, write.data)
        elif kept:
            for offset, data in write.pieces(kept):
                image.write(offset, data)


def lose_all(writes: Sequence[UnsyncedWrite]) -> Survival:
    """Nothing that was not flushed survives."""
    return [0] * len(writes)


def keep_all(writes: Sequence[UnsyncedWrite]) -> Survival:
    """Everything reached the medium: the process died, the machine lived."""
    return [ALL] * len(writes)


def keep_random(rng: random.Random) -> Choose:
    """A choice drawn from `rng`, over the shapes that crashes take.

    Nothing or all of it; a prefix, the last write torn; whole writes; 4-KiB pieces; 512-byte sectors.
    """

    def choose(writes: Sequence[UnsyncedWrite]) -> Survival:
        shape = rng.randrange(6)
        if shape == 0:
            return lose_all(writes)
        if shape == 1:
            return keep_all(writes)
        if shape == 2:
            cut = rng.randrange(len(writes) + 1)
            torn = [(1 << rng.randrange(w.nr_sectors)) - 1 for w in writes[cut : cut + 1]]
            return [ALL] * cut + torn + [0] * (len(writes) - cut - len(torn))
        share = rng.random()
        if shape == 3:
            return [ALL if rng.random() < share else 0 for _ in writes]
        piece = LINE // SECTOR if shape == 4 else 1
        return [_random_mask(rng, write, piece, share) for write in writes]

    return choose


def _random_mask(rng: random.Random, write: UnsyncedWrite, piece: int, share: float) -> int:
    first = write.offset // SECTOR
    mask = 0
    keep = False
    for i in range(write.nr_sectors):
        if i == 0 or (first + i) % piece == 0:
            keep = rng.random() < share
        mask |= keep << i
    return mask


class UnsyncedWrites:
    """The writes of one store that no flush has covered yet, in the order in which they were issued."""

    def __init__(self) -> None:
        self.writes: list[UnsyncedWrite] = []
        self._applied = 0

    def issue(self, offset: int, data: bytes) -> UnsyncedWrite:
        """A write begins: from now on it may survive."""
        write = UnsyncedWrite(offset, data)
        self.writes.append(write)
        return write

    def returned(self, write: UnsyncedWrite) -> None:
        """The write returned: a flush that begins now covers it."""
        self._applied += 1
        write.applied = self._applied

    def withdraw_unreturned(self) -> None:
        """Writes that were cancelled never happened: whoever issued them is gone."""
        self.writes = [w for w in self.writes if w.applied]

    def covered(self) -> list[UnsyncedWrite]:
        """What a flush that begins now makes durable, in the order in which it was applied."""
        return sorted((w for w in self.writes if w.applied), key=lambda w: w.applied)

    def settled(self, covered: Iterable[UnsyncedWrite]) -> None:
        """That flush has returned."""
        gone = set(covered)
        self.writes = [w for w in self.writes if w not in gone]

    def forget(self) -> None:
        """A flush failed: what it should have covered never becomes durable, even when a later one succeeds."""
        self.writes = [w for w in self.writes if not w.applied]
