# SPDX-License-Identifier: GPL-2.0-or-later
"""Recovery: from an image to a running cache (dm-lc resume_cache, recover_cache). `docs/recovery.md` walks through it.

The log is read forward from the durable tail (log_reader.py), each record's lines are put in the tables, newer
ones over older ones. Nothing is written here. `Cache.begin` then begins a new generation: a flush makes durable what was
accepted, then the superblock is committed, both copies. A crash at any point leads to the same result again (R8).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import attrs
import numpy as np

from lcfs.engine.block_store import BlockStore
from lcfs.engine.cache import Cache
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import KNOWN_BAD, Superblock, unpack_record_header
from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.log_reader import LogReader, Record
from lcfs.engine.ring import Ring
from lcfs.engine.write_buffer import NR_BUFFERS

log = logging.getLogger("lcfs.engine.recover")

PROGRESS_SEGMENTS = 1024
"""Segments between two reports of progress."""


async def resume_cache(
    number: int,
    image: BlockStore,
    superblock: Superblock,
    devices: Iterable[CachedDevice],
    *,
    nr_buffers: int = NR_BUFFERS,
    say: Callable[[str], None] = lambda _: None,
) -> Cache:
    """The cache in `image` as it was left. `Cache.begin` must follow before it takes requests.

    `devices` are the disks attached to it, present or missing, with tables made.
    Raises Damaged for a log with a hole, Failed where the image cannot be read.
    """
    ring = Ring(superblock.geometry, superblock.tail, superblock.tail - 1)
    for device in devices:
        ring.devices[device.id] = device
    since = {disk.id: disk.attached_at for disk in superblock.disks}
    reader = LogReader(image, superblock)
    bad_lines: set[int] = set()
    try:
        async for record in reader.walk():
            segment_id = superblock.geometry.segment_of(record.header.position)
            if segment_id // PROGRESS_SEGMENTS != ring.segment_id // PROGRESS_SEGMENTS:
                say(f"cache {number}: recovering, segment {segment_id}")
            ring.segment_id = segment_id
            bad_lines.update(replay(ring, record, since))
    except OSError as exc:
        raise Failed(f"{image.name} cannot be read: {exc.strerror or exc}; check the device") from exc
    reader.require_no_hole()
    _count_dirty(ring)
    superblock = attrs.evolve(
        superblock,
        generation=superblock.generation + 1,
        generation_start=superblock.geometry.position(ring.segment_id + 1, 0),
        head=reader.end,
        clean=False,
    )
    cache = Cache(number, image, superblock, ring, reader.last, nr_buffers=nr_buffers)
    ring.bad_lines.update(index for index in bad_lines if ring.states.dirty[index])
    if bad_lines:
        log.error("%d lines of %s are damaged", len(bad_lines), image.name)
    return cache


async def catch_up(image: BlockStore, superblock: Superblock) -> Superblock:
    """What the superblock of an image must at least say, from the log, where one of its copies is damaged.

    A tail goes to one copy only, so the copy that is left may be older than the log, whose records say how far tail
    and durable log were when they were sealed. Everything else is committed to both copies. Looks at every slot, but only
    where the first one that the copy names does not hold what it should.
    """
    geometry = superblock.geometry
    tail, head = superblock.tail, superblock.head
    raw = bytearray(LINE)
    await image.readinto(geometry.start_block(tail) * LINE, memoryview(raw))
    oldest = unpack_record_header(raw, superblock.uuid)
    if oldest is not None and oldest.position == geometry.position(tail, 0):
        # slots are taken again in order: while this one holds what the copy says, so do all behind it
        return attrs.evolve(superblock, clean=False)
    for slot in range(geometry.nr_segments):
        await image.readinto(geometry.start_block(slot + 1) * LINE, memoryview(raw))
        header = unpack_record_header(raw, superblock.uuid)
        if header is None or header.generation != superblock.generation:
            continue
        segment_id, block = divmod(header.position, geometry.blocks_per_segment)
        if block == 0 and geometry.slot(segment_id) == slot:
            tail, head = max(tail, header.tail), max(head, header.durable)
    if (tail, head) != (superblock.tail, superblock.head):
        log.warning("%s: the superblock that is left is older than the log; going by the log", image.name)
    return attrs.evolve(superblock, tail=tail, head=head, clean=superblock.clean and tail == superblock.tail)


def replay(ring: Ring, record: Record, since: Mapping[int, int]) -> list[int]:
    """Put a record's lines in the tables, over older versions; returns the cache indices of its bad lines.

    Lines of a disk that was not attached when the record was written are dead and skipped (B22, B23).
    """
    header, states = record.header, ring.states
    rows = np.flatnonzero(header.entries["dirty"])
    owners = header.entries["device_id"][rows]
    for number in np.unique(owners).tolist():
        device = ring.devices[number]
        if device is None or header.position < since[number]:
            continue
        mine = rows[owners == number]
        high = (header.entries["line_high"][mine].astype(np.int64) & ~KNOWN_BAD) << 32
        lines = header.entries["line"][mine].astype(np.int64) | high
        masks = header.entries["dirty"][mine]
        fits = lines < device.nr_lines
        if device.size % LINE:
            beyond = 0xFF << (device.size % LINE // SECTOR) & 0xFF
            fits &= (lines != device.nr_lines - 1) | (masks & beyond == 0)
        if not fits.all():
            log.error("%d lines of disk %d lie beyond its end and are ignored", int((~fits).sum()), number)
            mine, lines, masks = mine[fits], lines[fits], masks[fits]
        indices = mine + record.first_index
        table = device.table.array
        old = table[lines]
        states.dirty_array[old[old != 0]] = 0
        table[lines] = indices
        states.line_array[indices] = lines
        states.device_array[indices] = number
        states.crc_array[indices] = header.entries["crc"][mine]
        states.valid_array[indices] = masks
        states.dirty_array[indices] = np.where(table[lines] == indices, masks, 0)
    return [record.first_index + row for row in record.bad_lines]


def _count_dirty(ring: Ring) -> None:
    if ring.segment_id < ring.tail:
        return
    dirty = ring.dirty_indices(ring.tail, ring.segment_id)
    counts = np.bincount(ring.states.device_array[dirty], minlength=256)
    for device in ring.devices:
        if device is not None:
            device.nr_dirty_caches = int(counts[device.id])
