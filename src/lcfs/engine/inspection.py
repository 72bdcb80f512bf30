# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with an image that is not in use: every damage with a verdict, a place and what can be done.

It is read as recovery reads it, and every line of the log is verified besides. `docs/errors.md` has the table of
verdicts; `repair.py` does what may be done about them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable

import attrs
import numpy as np

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import KNOWN_BAD, SUPERBLOCK_COPIES, RecordHeader, Superblock, unpack_record_header
from lcfs.engine.errors import Damaged
from lcfs.engine.geometry import LINE
from lcfs.engine.log_reader import LOOKAHEAD_SEGMENTS, LogReader, Verdict
from lcfs.engine.recover import catch_up
from lcfs.engine.superblock import SuperblockCopies, read_superblocks


class Kind(enum.Enum):
    """The verdicts."""

    SUPERBLOCKS = "superblocks"
    """Neither copy can be used: nobody knows where the log begins."""
    SUPERBLOCK_COPY = "superblock-copy"
    """One copy cannot be used; the other is in force."""
    HOLE = "hole"
    """A record that was durable is gone, and with it the way to those behind it."""
    LINE = "line"
    """The newest version of a line, not yet on its backing, does not match its checksum: its data is lost."""
    KNOWN_LINE = "known-line"
    """The same, and the log says so: it was found before and moved as it was."""
    OLD_LINE = "old-line"
    """A line that does not match, of which there is a newer version, or whose disk left the cache: nobody needs it."""


@attrs.frozen
class Damage:
    """One damage. What does not apply is None; `offset` is in bytes, from the beginning of the image."""

    kind: Kind
    text: str
    offset: int | None = None
    segment: int | None = None
    block: int | None = None
    disk: int | None = None
    line: int | None = None


@attrs.frozen
class Lost:
    """What lies behind a hole: whole records that a cut of the log gives up."""

    records: int
    lines: dict[int, int]
    """Number of lines by disk."""

    def __str__(self) -> str:
        lines = ", ".join(f"{count} of disk {disk}" for disk, count in sorted(self.lines.items())) or "none"
        return f"{self.records} whole records behind it (lines: {lines})"


@attrs.define
class Inspection:
    """What was found. `superblock` is the one that recovery goes by, None when there is none."""

    copies: SuperblockCopies
    superblock: Superblock | None = None
    in_force: int = 0
    """The number of its copy."""
    damages: list[Damage] = attrs.field(factory=list)
    records: int = 0
    lines: int = 0
    verdict: Verdict = Verdict.END
    end: int = 0
    """Log position behind the last record that recovery accepts."""
    last_segment: int = 0
    """The segment of that record; the one before the tail when there is none."""
    lost: Lost | None = None
    """Behind a HOLE."""

    def counts(self) -> dict[str, int]:
        """How many damages of each kind."""
        return dict(Counter(damage.kind.value for damage in self.damages))


async def inspect_image(store: BlockStore, progress: Callable[[str], None] = lambda _: None) -> Inspection:
    """Read everything that counts, verify every line of it.

    Raises LcfsError where this is no image to check (none, a newer version), OSError where it cannot be read.
    """
    copies = await read_superblocks(store)
    found = Inspection(copies)
    for number in copies.damaged:
        found.damages.append(
            Damage(
                Kind.SUPERBLOCK_COPY,
                f"superblock copy {number} cannot be used ({copies.copies[number]}); the other is in force, and the next "
                "mount writes this anew",
                SUPERBLOCK_COPIES[number],
            )
        )
    try:
        superblock = copies.best(store.name)
    except Damaged as error:
        found.damages = [Damage(Kind.SUPERBLOCKS, str(error).removeprefix(f"{store.name}: "), 0)]
        return found
    found.in_force = copies.copies.index(superblock)
    if copies.damaged:
        superblock = await catch_up(store, superblock)
    found.superblock = superblock
    await _Walk(store, superblock, found, progress).run()
    return found


@attrs.define
class _Walk:
    """One way through the log."""

    store: BlockStore
    superblock: Superblock
    found: Inspection
    progress: Callable[[str], None]
    _bad: dict[tuple[int, int], Damage] = attrs.field(factory=dict)
    """Damaged lines of which no newer version was seen yet, by disk and line."""

    async def run(self) -> None:
        found, geometry = self.found, self.superblock.geometry
        found.last_segment = self.superblock.tail - 1
        since = {disk.id: disk.attached_at for disk in self.superblock.disks if disk.cache_uuid == self.superblock.uuid}
        reader = LogReader(self.store, self.superblock, check_all=True)
        async for record in reader.walk():
            header = record.header
            found.records += 1
            found.lines += header.count
            found.last_segment = geometry.segment_of(header.position)
            self.progress(f"segment {found.last_segment}: {found.records} records, {found.lines} lines so far")
            self._overtake(header)
            for row in sorted(record.bad_lines):
                self._note(header, row, dead=header.position < since.get(int(header.entries["device_id"][row]), 1 << 63))
        found.damages += self._bad.values()
        found.damages.sort(key=lambda damage: (damage.segment is not None, damage.segment, damage.block))
        found.verdict, found.end = reader.verdict, reader.end
        try:
            reader.require_no_hole()
        except Damaged as error:
            segment_id, block = divmod(reader.end, geometry.blocks_per_segment)
            found.lost = await self._look_behind(reader.end)
            text = f"{str(error).removeprefix(f'{self.store.name}: ')}; {found.lost}"
            found.damages.append(Damage(Kind.HOLE, text, geometry.offset_of(reader.end), segment_id, block))

    def _overtake(self, header: RecordHeader) -> None:
        """Damaged lines of which this record has a newer version have lost nothing."""
        if not self._bad:
            return
        entries = header.entries[header.entries["dirty"] != 0]
        for disk, line in zip(entries["device_id"].tolist(), _addresses(entries), strict=True):
            old = self._bad.pop((disk, line), None)
            if old is not None:
                text = f"{old.text}; there is a newer version of it"
                self.found.damages.append(attrs.evolve(old, kind=Kind.OLD_LINE, text=text))

    def _note(self, header: RecordHeader, row: int, *, dead: bool) -> None:
        geometry = self.superblock.geometry
        segment_id, block = divmod(header.position + 1 + row, geometry.blocks_per_segment)
        entry = header.entries[row : row + 1]
        disk, line = int(entry["device_id"][0]), _addresses(entry)[0]
        text = f"segment {segment_id}, block {block}: line {line} of disk {disk} does not match its checksum"
        kind = Kind.KNOWN_LINE if entry["line_high"][0] & KNOWN_BAD else Kind.LINE
        damage = Damage(kind, text, geometry.offset_of(header.position + 1 + row), segment_id, block, disk, line)
        if dead:
            text = f"{text}; its disk has left the cache"
            self.found.damages.append(attrs.evolve(damage, kind=Kind.OLD_LINE, text=text))
        else:
            self._bad[disk, line] = damage

    async def _look_behind(self, end: int) -> Lost:
        """The whole records of this image behind a hole, in the segments that the ring may have in use."""
        superblock, geometry = self.superblock, self.superblock.geometry
        blocks = geometry.blocks_per_segment
        hole, block = divmod(end, blocks)
        sure = max(hole, geometry.segment_of(superblock.head)) + LOOKAHEAD_SEGMENTS
        records, lines = 0, Counter[int]()
        segment = memoryview(bytearray(geometry.segment_bytes))
        for segment_id in range(hole, min(sure, superblock.tail + geometry.nr_segments - 1) + 1):
            self.progress(f"segment {segment_id}: looking for what lies behind the hole")
            try:
                await self.store.readinto(geometry.start_block(segment_id) * LINE, segment)
            except OSError:
                continue
            while block < blocks:
                header = unpack_record_header(segment[block * LINE : (block + 1) * LINE], superblock.uuid)
                if header is None or header.position != geometry.position(segment_id, block):
                    block += 1
                    continue
                records += 1
                dirty = header.entries["dirty"] != 0
                lines.update(header.entries["device_id"][dirty].tolist())
                block += 1 + header.count
            block = 0
        return Lost(records, dict(lines))


def _addresses(entries: np.ndarray[tuple[int], np.dtype[np.void]]) -> list[int]:
    high = (entries["line_high"].astype(np.int64) & ~KNOWN_BAD) << 32
    addresses: list[int] = (entries["line"].astype(np.int64) | high).tolist()
    return addresses
