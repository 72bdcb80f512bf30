# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and committing the superblock.

Two copies, written alternately: a commit never touches the copy that is in force, so a torn commit
leaves the one before it (R9). Nothing that depends on a commit happens before its flush returned.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import attrs
import trio

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import (
    SUPERBLOCK_COPIES,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_MAX,
    Superblock,
    pack_superblock,
    unpack_superblock,
)
from lcfs.engine.errors import Damaged, Failed, LcfsError, NewerVersion, NotACacheImage
from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA

log = logging.getLogger("lcfs.engine.superblock")

COMMIT_PATIENCE = 120
"""Seconds after which a commit that hangs is given up, and the cache with it."""


@attrs.frozen
class SuperblockCopies:
    """What the two copies are: a superblock, or the error that says what is wrong with it."""

    copies: tuple[Superblock | LcfsError, Superblock | LcfsError]

    @property
    def damaged(self) -> tuple[int, ...]:
        """The numbers of the copies that cannot be used."""
        return tuple(number for number, copy in enumerate(self.copies) if isinstance(copy, LcfsError))

    def best(self, name: str) -> Superblock:
        """The valid copy with the higher sequence; a copy that a newer lcfs wrote makes the other one old news.

        Raises NotACacheImage, NewerVersion, Damaged or Failed (EIO), naming the image.
        """
        errors = [copy for copy in self.copies if isinstance(copy, LcfsError)]
        for error in errors:
            if isinstance(error, NewerVersion):
                raise NewerVersion(f"{name}: {error}")
        valid = [copy for copy in self.copies if isinstance(copy, Superblock)]
        if valid:
            return max(valid, key=lambda copy: copy.sequence)
        if all(isinstance(error, NotACacheImage) for error in errors):
            raise NotACacheImage(
                f"{name} is not an lcfs cache image and is left as it is; give another file, "
                f"or run `lcfs cache format --force {name}` if its content is not needed"
            )
        worst = next(error for error in errors if not isinstance(error, NotACacheImage))
        if all(error.errno == errno.EIO for error in errors):
            raise Failed(f"{name} cannot be read ({worst}); check the device")
        raise Damaged(f"{name}: both superblocks are damaged ({worst}); restore the image from a copy")


async def read_superblocks(store: BlockStore) -> SuperblockCopies:
    """Read both copies; one that cannot be read is damaged."""
    if store.size < 2 * SUPERBLOCK_AREA:
        too_small = NotACacheImage(f"{store.size} bytes are too few for a cache image")
        if store.size < SUPERBLOCK_AREA:
            return SuperblockCopies((too_small, too_small))
    copies: list[Superblock | LcfsError] = []
    for offset in SUPERBLOCK_COPIES:
        try:
            copies.append(unpack_superblock(await _read_copy(store, offset), store.size))
        except (NotACacheImage, NewerVersion, Damaged) as exc:
            copies.append(exc)
        except OSError as exc:
            copies.append(Damaged(f"superblock that cannot be read: {exc.strerror or exc}", errno=errno.EIO))
    return SuperblockCopies((copies[0], copies[1]))


async def _read_copy(store: BlockStore, offset: int) -> bytes:
    copy = bytearray(LINE)
    await store.readinto(offset, memoryview(copy))
    length = int.from_bytes(copy[12:16], "little")
    if copy[:8] == SUPERBLOCK_MAGIC and LINE < length <= SUPERBLOCK_MAX:
        copy = bytearray(-(-length // LINE) * LINE)
        await store.readinto(offset, memoryview(copy))
    return bytes(copy)


async def read_superblock(store: BlockStore) -> Superblock:
    """The superblock in force; see `SuperblockCopies.best` for what it raises."""
    return (await read_superblocks(store)).best(store.name)


class SuperblockWriter:
    """Commits superblocks of one image, one at a time."""

    def __init__(
        self,
        store: BlockStore,
        current: Superblock,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self.current = current
        """The one that is durable."""
        self._store = store
        self._flush = flush
        self._abandoned = False
        self._lock = trio.Lock()

    async def commit(self, snapshot: Callable[[], Superblock], *, both: bool = False) -> Superblock:
        """Make what `snapshot()` says durable; `both` copies where a later one must not be lost alone.

        `snapshot` is called when it is this commit's turn, so that it is never older than one before it.
        A commit that failed is repeated into the same copy by the next. Raises OSError, LcfsError.
        """
        async with self._lock:
            if self._abandoned:
                raise OSError(errno.EIO, "an earlier superblock commit hangs")
            # not to be called off: a worker thread left behind could overwrite a later commit with this one
            with trio.move_on_after(COMMIT_PATIENCE, shield=True):
                await self._commit(snapshot, both)
                return self.current
            self._abandoned = True
            raise OSError(errno.EIO, f"no answer for {COMMIT_PATIENCE} s")

    async def _commit(self, snapshot: Callable[[], Superblock], both: bool) -> None:
        wanted = snapshot()
        await self._write(wanted)
        if both:
            try:
                await self._write(wanted)
            except OSError as exc:
                # the first copy made it so; without room for the second, the next commit writes there
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                log.warning("%s: no space for the second copy of the superblock", self._store.name)

    async def _write(self, wanted: Superblock) -> None:
        wanted = attrs.evolve(wanted, sequence=self.current.sequence + 1)
        await self._store.write(SUPERBLOCK_COPIES[wanted.sequence % 2], [pack_superblock(wanted)])
        await self._flush()
        self.current = wanted
