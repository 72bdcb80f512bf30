# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration: dirty lines go from the cache image to the backings, oldest first (dm-lc migrate_proc).

A batch is sorted by disk and address, neighbours are merged into one write, the backing is synced, and
only then are the lines clean; when whole segments are clean the tail moves, with one superblock commit.

What makes this safe:

- Only durable log is migrated: a backing never holds a write that recovery would not also find (R3).
- Per disk one job at a time holds `writeback`, and it takes the newest version of each line when it begins:
  an older version never lands on a newer one (B08).
- A segment is given up only when whatever overtook its lines is durable (`Ring.overtaken_by`), and
  its slot is overwritten only when the tail that says so is durable (B02, B04).
- A failing, hung or missing backing keeps its lines dirty. When they stand in the way of others, they
  are copied forward to the head of the log.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Sequence

import attrs
import numpy as np
import trio
from crc32c import crc32c

from lcfs.engine.block_store import BlockStore
from lcfs.engine.cached_device import HUNG_AFTER, CachedDevice
from lcfs.engine.errors import Failed, LcfsError, Missing, NoSpace
from lcfs.engine.extents import Extent, Lines, Masks, Rows, add_extents
from lcfs.engine.flush import NO_SPACE_RETRY
from lcfs.engine.geometry import LINE
from lcfs.engine.line_reader import CHUNK, LineReader
from lcfs.engine.lookup import anonymous
from lcfs.engine.pace import Pace, next_step
from lcfs.engine.ring import Indices, Ring
from lcfs.engine.spans import Span, near, spans
from lcfs.engine.unreadable import Unreadable

log = logging.getLogger("lcfs.engine.migrate")

EXTENTS_PER_HOP = 256
"""Writes handed to the backing at a time."""
BATCH_LINES = 2048
"""Lines written back between two looks at what is dirty: their memory is kept, 8 MiB."""
LOOK_SEGMENTS = 256
"""Segments in which a step looks for lines to write back together: more sort no better, and cost more to look at."""
FIRST_JOB = 256
"""Lines of the first job for a backing of which it is not yet known what a request to it costs."""
SPAN_BYTES_PER_HOP = 8 << 20
"""Bytes of spans in RAM at a time."""
FIRST_DRAIN = 64
"""Lines of the first step of a drain; doubled while a step takes less than DRAIN_STEP seconds."""
DRAIN_STEP = 0.25
LATE_PATIENCE = 60.0
"""Seconds that writers of other disks wait for a late one that fills the ring, before they get an error."""
STOP_PATIENCE = 10.0
"""Seconds a clean stop waits for a backing that is being written to."""


@attrs.define(eq=False)
class _Job:
    """A step of a drain, done by the daemon for somebody who may stop waiting."""

    device: CachedDevice
    first: int
    last: int
    """Segment ids."""
    before: int
    limit: int
    count: int = 0
    error: LcfsError | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)


class Migrator:
    """The migration daemon of one cache."""

    def __init__(
        self,
        ring: Ring,
        image: BlockStore,
        *,
        wait_durable: Callable[[int], Awaitable[None]],
        durable: Callable[[], int],
        commit_tail: Callable[[int], Awaitable[None]],
        copy_forward: Callable[[CachedDevice, int, memoryview], bool],
        seal_copies: Callable[[], None],
        pace: Pace,
        batch_size: Callable[[], int],
        blocked: Callable[[], bool],
        on_stuck: Callable[[str], None],
        on_progress: Callable[[], None],
        on_bad_line: Callable[[CachedDevice, int], None],
    ) -> None:
        self.nr_migrated = 0
        """Lines written back since the cache was resumed."""
        self.unreadable = Unreadable(ring)
        """Lines that the image does not give out for the time being."""
        self._reader = LineReader(ring, image, self.unreadable)
        self.pace = pace
        self._ring = ring
        self._image = image
        self._wait_durable = wait_durable
        self._durable = durable
        self._commit_tail = commit_tail
        self._copy_forward = copy_forward
        self._seal_copies = seal_copies
        self._batch_size = batch_size
        self._blocked = blocked
        self._on_stuck = on_stuck
        self._on_progress = on_progress
        self._on_bad_line = on_bad_line
        self._wake = trio.Event()
        self._stopping = False
        self._no_space_until = 0.0
        self._nursery: trio.Nursery | None = None
        self._tail_lock = trio.Lock()

    def wake(self) -> None:
        """Something changed that may allow or require migration."""
        self._wake.set()

    @property
    def wanted(self) -> bool:
        """Whether the daemon has something to do and may do it."""
        ring = self._ring
        if ring.tail > ring.last_closed or self._stopping:
            return False
        return self.pace.may_go

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Migrate batches while wanted. Ends only when cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                self._wake = trio.Event()
                if self.wanted:
                    began, before = trio.current_time(), self.nr_migrated
                    moved = await self._batch()
                    rested = self.nr_migrated > before and await self._rest(trio.current_time() - began)
                    if moved or rested:
                        continue
                with trio.move_on_after(self._pause()):
                    await self._wake.wait()

    async def stop(self) -> None:
        """Begin nothing more, and return when no backing is being written to, or after STOP_PATIENCE seconds."""
        self._stopping = True
        with trio.move_on_after(STOP_PATIENCE):
            for device in self._ring.attached():
                async with device.writeback:
                    pass

    async def _rest(self, took: float) -> bool:
        """After so many seconds of work, leave the disks alone for so long that work has its share; False where no rest
        is due. It ends when migration may have all of the time: a writer waits, or an operator forces it.
        """
        if not (rest := self.pace.rest(took)):
            return False
        with trio.move_on_after(rest):
            while self.pace.share < 1:
                await self._wake.wait()
                self._wake = trio.Event()
        return True

    def _pause(self) -> float:
        """Seconds until a faulty backing may be tried again or a disk at work counts as late; for ever where none is."""
        if not self.wanted:
            return float("inf")
        now = trio.current_time()
        due = [device.retry_at for device in self._ring.attached() if device.fault]
        due += [device.late_at for device in self._ring.attached()]
        due += [device.late_at + LATE_PATIENCE for device in self._ring.attached()]
        due += [self._no_space_until, self.unreadable.retry_at]
        return min((time - now for time in due if time > now), default=float("inf"))

    async def _batch(self) -> bool:
        """Migrate the oldest segments; True when the tail moved."""
        ring = self._ring
        first = ring.tail
        last = min(ring.last_closed, first + self._batch_size() - 1)
        before = (last + 1) * ring.geometry.blocks_per_segment
        try:
            await self._wait_durable(before)
        except LcfsError:
            return False
        if ring.checked_tail != first and not self.pace.allowed() and trio.current_time() >= self.unreadable.retry_at:
            await self._check_tail(first)
            return True
        owners = np.unique(ring.states.device_array[self._to_be_tried(ring.dirty_indices(first, last))])
        devices = [device for device in map(ring.devices.__getitem__, owners) if device is not None]
        devices = [device for device in devices if not device.stuck and not device.writeback.locked()]
        await self._run_jobs(devices, first, last, before)
        moved = await self.advance_tail(last)
        if not moved and self._blocked():
            moved = await self._make_way(first)
        return moved

    async def _run_jobs(self, devices: Sequence[CachedDevice], first: int, last: int, before: int) -> None:
        """Write back several disks side by side; those that take too long go on in the background."""
        assert self._nursery is not None
        working = set(devices)
        done = trio.Event()

        async def job(device: CachedDevice) -> None:
            try:
                while not self._stopping:
                    is_paced, began = self.pace.share < 1, trio.current_time()
                    count = await self.write_back(device, first, last, before, device.paced_lines if is_paced else BATCH_LINES)
                    if is_paced:
                        device.paced_lines = next_step(device.paced_lines, trio.current_time() - began, BATCH_LINES)
                    if is_paced or not count:
                        break
            except LcfsError as exc:
                log.debug("disk %d keeps its dirty lines: %s", device.id, exc)
            working.discard(device)
            if not working:
                done.set()

        for device in devices:
            self._nursery.start_soon(job, device)
        if devices:
            with trio.move_on_after(HUNG_AFTER):
                await done.wait()
        for device in working:
            log.info("disk %d is slow to take its lines; migration goes on without it", device.id)

    async def advance_tail(self, last: int) -> bool:
        """Give up the segments from the tail to `last` that hold no dirty line; True when there were any.

        Raises nothing: a cache that fails here says so itself.
        """
        async with self._tail_lock:
            ring = self._ring
            tail = ring.first_dirty(ring.tail, min(last, ring.last_closed))
            if tail <= ring.tail:
                return False
            # from here on no line before the new tail is dirty, so none of them is overtaken any more
            try:
                await self._wait_durable(ring.overtaken_by(ring.tail, tail - 1))
                await self._commit_tail(tail)
            except NoSpace:
                self._no_space_until = trio.current_time() + NO_SPACE_RETRY
                return False
            except LcfsError:
                return False
            return True

    async def write_back(self, device: CachedDevice, first_id: int, last_id: int, before: int, limit: int = BATCH_LINES) -> int:
        """Write the dirty lines of `device` in these segments to its backing, those before position `before`.

        The log must be durable up to `before`. Returns how many lines that were, `limit` at most.
        Raises Missing without a backing, Failed when the backing or the image fails.

        It runs in this daemon's nursery only: were it cancelled with a request, a worker thread could go on writing
        without the lock, and land an old version on a newer one.
        """
        async with device.writeback:
            device.late_at = trio.current_time() + HUNG_AFTER
            try:
                return await self._write_back(device, first_id, last_id, before, limit)
            finally:
                device.late_at = float("inf")
                # the disk may have passed from struggling to well or back, and fewer of its lines are dirty: whoever
                # waits looks again. This cannot spin: a job begins only where a line is dirty that is not bad
                self.wake()
                self._on_progress()

    async def _write_back(self, device: CachedDevice, first_id: int, last_id: int, before: int, limit: int) -> int:
        ring, states = self._ring, self._ring.states
        store = device.store
        if store is None:
            raise Missing(f"the backing of disk {device.id} is missing; bring it back and mount again")
        # looked up only now: while this job waited, slots may have been given to other lines
        indices = ring.dirty_indices(max(first_id, ring.tail), last_id)
        indices = self._to_be_tried(indices[states.device_array[indices] == device.id])
        positions = ring.positions(indices)
        early = positions < before
        indices, positions = indices[early], positions[early]
        if not len(indices):
            return 0
        if not device.cost.known:
            limit = min(limit, FIRST_JOB)
        price = device.cost.price
        if price >= 2 * LINE:
            first = max(first_id, ring.tail)
            last = min(max(last_id, first + LOOK_SEGMENTS - 1), ring.segment_id)
            indices, positions = self._with_neighbours(device, indices, price, first, last, max(before, self._durable()))
        if len(indices) > limit:
            # the lowest addresses
            lowest = np.argpartition(states.line_array[indices], limit)[:limit]
            indices, positions = indices[lowest], positions[lowest]
        # read from the image in the order in which they lie there
        by_index = np.argsort(indices)
        indices, positions = indices[by_index], positions[by_index]
        lines = states.line_array[indices].astype(np.int64)
        masks = states.dirty_array[indices]
        crcs = states.crc_array[indices].tolist()
        with self._reader.memory(len(indices)) as data:
            good, damaged = await self._reader.read(indices, crcs, data)
            passed = np.asarray(good, bool)
            order = np.argsort(lines)
            await self._write_lines(device, store, lines, masks, data, order[passed[order]], price)
        # a line overtaken meanwhile is not dirty any more, and its slot may already hold another line
        still = (ring.positions(indices) == positions) & (states.dirty_array[indices] != 0)
        clean = indices[still & passed]
        states.dirty_array[clean] = 0
        device.nr_dirty_caches -= len(clean)
        self.nr_migrated += len(clean)
        for index in indices[still & np.asarray(damaged, bool)].tolist():
            self._ring.bad_lines.add(index)
            self._on_bad_line(device, index)
        return len(indices)

    async def _write_lines(
        self,
        device: CachedDevice,
        store: BlockStore,
        lines: Lines,
        masks: Masks,
        data: memoryview,
        order: Rows,
        price: int,
    ) -> None:
        """Write lines to the backing, durably, and note what that cost. Raises Failed."""
        extents: list[Extent] = []
        for at in range(0, len(order), CHUNK):
            add_extents(extents, lines, masks, data, order[at : at + CHUNK])
            await trio.lowlevel.checkpoint()
        try:
            with device.load.requests, device.load.migration:
                seconds, requests, length = await self._write_to(store, extents, price)
        except OSError as exc:
            reason = f"{store.name} cannot be written: {exc.strerror or exc}"
            if not device.fault:
                log.warning("disk %d is degraded: %s; its dirty lines stay in the cache", device.id, reason)
            device.mark_faulty(reason)
            raise Failed(f"disk {device.id}: {reason}", errno=exc.errno) from exc
        device.mark_well()
        if requests:
            device.cost.note(requests, length, seconds)

    def _with_neighbours(
        self, device: CachedDevice, wanted: Indices, price: int, first_id: int, last_id: int, before: int
    ) -> tuple[Indices, Indices]:
        """`wanted` and the dirty lines of these segments, theirs among them, that can share a span with them; and their
        positions.

        Only lines before position `before`, which is durable. That younger lines become clean along with the oldest
        costs next to nothing here, and saves them a request of their own.
        """
        ring, states = self._ring, self._ring.states
        found = ring.dirty_indices(first_id, last_id)
        found = self._to_be_tried(found[states.device_array[found] == device.id])
        positions = ring.positions(found)
        early = positions < before
        found, positions = found[early], positions[early]
        lines = states.line_array[wanted].astype(np.int64)
        close = near(states.line_array[found].astype(np.int64), np.sort(lines), price)
        return found[close], positions[close]

    async def _write_to(self, store: BlockStore, extents: Sequence[Extent], price: int) -> tuple[float, int, int]:
        """Write ascending extents and flush. Returns seconds, requests and bytes."""
        began = trio.current_time()
        try:
            requests, length = await self._write_spans(store, extents, price)
        except OSError as exc:
            if exc.errno != errno.ENOSPC or not price:
                raise
            # what lies between the lines may be holes
            requests, length = await self._write_spans(store, extents, 0)
        await store.flush()
        return trio.current_time() - began, requests, length

    async def _write_spans(self, store: BlockStore, extents: Sequence[Extent], price: int) -> tuple[int, int]:
        """Write ascending extents, those close together as spans. Returns how many requests that took, and bytes.

        What a span writes back of clean lines is what it has just read: `writeback` is held, and while a disk has a
        cache nothing else writes to its backing. Torn or failing half-way it leaves old sectors, new ones, and
        clean ones that are both. Where the backing cannot be read the extents are written as they are.
        """
        requests = length = held = 0
        ready: list[Extent] = []
        for span in spans(extents, price):
            whole = await self._laid_over(store, span) if span.rewritten else None
            if whole is None:
                ready.extend(span.extents)
                length += span.dirty
                requests += len(span.extents)
            else:
                start, data = whole
                ready.append((start, [data]))
                held += len(data)
                length += 2 * len(data)
                requests += 2
            while len(ready) >= EXTENTS_PER_HOP or held >= SPAN_BYTES_PER_HOP:
                await store.write_extents(ready[:EXTENTS_PER_HOP])
                del ready[:EXTENTS_PER_HOP]
                held = 0
        if ready:
            await store.write_extents(ready)
        return requests, length

    async def _laid_over(self, store: BlockStore, span: Span) -> tuple[int, memoryview] | None:
        """What the backing holds of a span, in whole lines, with the dirty ones over it, and where that begins; None
        where it cannot be read.

        Not through the page cache, where it is not there already: read-ahead would make many requests of it, and the
        write that follows leaves it there. Whole lines, so that the kernel need not read any either.
        """
        start = span.start // LINE * LINE
        end = -(-span.end // LINE) * LINE
        is_whole = end <= store.size
        data = memoryview(anonymous(end - start))[: min(end, store.size) - start]
        try:
            if not store.readinto_nowait(start, data):
                await (store.readinto_uncached if is_whole else store.readinto)(start, data)
        except OSError as exc:
            log.debug("%s cannot be read from byte %d on, its lines are written one by one: %s", store.name, start, exc)
            return None
        span.lay_over(data[span.start - start :])
        return start, data

    async def drain(self, device: CachedDevice, position: int) -> None:
        """Write back every line of `device` before log position `position`, which must be durable.

        Raises as `write_back`; Failed when a line cannot be read back from the image.
        """
        await self._look_at_bad_again(device)
        self.unreadable.try_now()
        ring = self._ring
        limit, first, end = FIRST_DRAIN, ring.tail, ring.geometry.segment_of(position)
        while first <= min(end, ring.segment_id):
            began = trio.current_time()
            job = _Job(device, first, min(first + LOOK_SEGMENTS - 1, ring.segment_id), position, limit)
            assert self._nursery is not None, "the daemon must run"
            self._nursery.start_soon(self._run_job, job)
            await job.ended.wait()
            if job.error is not None:
                raise job.error
            if not job.count:
                # nothing becomes dirty in a segment that is not open
                first = max(job.last + 1, ring.tail)
                continue
            # short steps on a slow disk, so that progress shows; long ones on a quick disk, to merge more
            if trio.current_time() - began < DRAIN_STEP:
                limit = min(2 * limit, BATCH_LINES)
        owners, dirty = ring.states.device_array, ring.states.dirty_array
        if any(owners[index] == device.id and dirty[index] for index in ring.bad_lines):
            raise Failed(
                f"lines of disk {device.id} on {self._image.name} are damaged and cannot be written back; "
                "run `lcfs check` to see which"
            )
        if count := self.unreadable.count(device.id):
            raise Failed(
                f"{count} lines of disk {device.id} cannot be read from {self._image.name} and stay in the cache; "
                "look at the device under it, and try again"
            )

    async def _run_job(self, job: _Job) -> None:
        try:
            job.count = await self.write_back(job.device, job.first, job.last, job.before, job.limit)
        except LcfsError as exc:
            job.error = exc
        except trio.Cancelled:
            job.error = Failed(f"disk {job.device.id} was not drained: the cache stops")
            raise
        finally:
            job.ended.set()

    async def _check_tail(self, segment_id: int) -> None:
        """Read the oldest segment's dirty lines. Where all are good, writers may take the last free segment (Log.has_room)."""
        ring = self._ring
        indices = np.sort(self._without_bad(ring.dirty_indices(segment_id, segment_id)))
        sure = True
        if len(indices):
            crcs = ring.states.crc_array[indices].tolist()
            with self._reader.memory(len(indices)) as data:
                good, damaged = await self._reader.read(indices, crcs, data)
            for row, index in enumerate(indices.tolist()):
                device = ring.devices[ring.states.device[index]]
                if not good[row] and ring.tail == segment_id and ring.states.dirty[index] and device is not None:
                    if damaged[row]:
                        ring.bad_lines.add(index)
                        self._on_bad_line(device, index)
                    else:
                        sure = False
        if sure:
            ring.checked_tail = segment_id
        self._on_progress()

    async def _look_at_bad_again(self, device: CachedDevice) -> None:
        """Take lines off the list of damaged ones that can be read after all."""
        ring = self._ring
        for index in sorted(ring.bad_lines):
            if ring.states.device[index] == device.id and ring.states.dirty[index]:
                line, crc = memoryview(bytearray(LINE)), ring.states.crc[index]
                await self._reader.read_blocks(index, line)
                if crc32c(line) == crc == ring.states.crc[index]:
                    ring.bad_lines.discard(index)

    def _without_bad(self, indices: Indices) -> Indices:
        """Those that are not known to be damaged."""
        if not self._ring.bad_lines:
            return indices
        return indices[~np.isin(indices, list(self._ring.bad_lines))]

    def _to_be_tried(self, indices: Indices) -> Indices:
        """Those that are not known to be damaged, and not to be left alone for a while because they cannot be read."""
        indices = self._without_bad(indices)
        if not self.unreadable:
            return indices
        rests = self.unreadable.resting(self._ring.positions(indices))
        return indices[~np.asarray(rests, bool)] if any(rests) else indices

    async def _make_way(self, segment_id: int) -> bool:
        """Copy the lines that keep `segment_id` from being given up to the head of the log.

        True when the tail moved. Writers wait and their way is barred by lines of a disk that is missing,
        hung or failing, or by damaged lines: without this one bad disk would stop all (R6).
        """
        ring = self._ring
        indices = ring.dirty_indices(segment_id, segment_id)
        if not len(indices) or not all(map(self._is_barred, indices.tolist())):
            return False
        barred = sum(map(self._is_barred, ring.dirty_indices(segment_id, ring.last_closed).tolist()))
        lines = ring.geometry.lines_per_segment
        if barred > (ring.geometry.nr_segments - 2) * (lines - 1):
            # put together they would still fill the ring: only their disks can help
            self._give_up()
            return False
        crcs = ring.states.crc_array[indices].tolist()
        with self._reader.memory(len(indices)) as data:
            good, damaged = await self._reader.read(indices, crcs, data)
            # where nothing can be read it is the device that is away, and comes back with its data, however long that takes
            away = not any(good) and bool(await self._reader.read_blocks(0, memoryview(bytearray(LINE))))
            if ring.tail > segment_id:
                return True
            self._copy_barred(indices, data, good, damaged, away)
        if away:
            self._on_stuck(f"the cache is full and {self._image.name} cannot be read; look at the device under it")
            return False
        return await self.advance_tail(segment_id)

    def _copy_barred(self, indices: Indices, data: memoryview, good: list[bool], damaged: list[bool], away: bool) -> None:
        """Copy lines that were just read forward, as far as they still are dirty and there is room."""
        ring = self._ring
        for row, index in enumerate(indices.tolist()):
            device = ring.devices[ring.states.device[index]]
            if device is None or not ring.states.dirty[index]:
                continue
            if index not in ring.bad_lines and not good[row]:
                if not damaged[row] and (away or not self._is_given_up(index)):
                    # its data may be good, and copying it without would be losing it
                    continue
                ring.bad_lines.add(index)
                self._on_bad_line(device, index)
            if not self._copy_forward(device, index, data[row * LINE : (row + 1) * LINE]):
                if ring.nr_free == 0:
                    self._give_up()
                break
        self._seal_copies()

    def _give_up(self) -> None:
        """Nothing but the disks themselves can make room: writers are told, unless a disk may only be slow."""
        now = trio.current_time()
        if not any(device.late and now < device.late_at + LATE_PATIENCE for device in self._ring.attached()):
            self._on_stuck(
                "the cache is full of lines that cannot be written back; bring back the backing of its missing or failing disk"
            )

    def _is_barred(self, index: int) -> bool:
        """Whether the dirty line at `index` cannot be written back now."""
        device = self._ring.devices[self._ring.states.device[index]]
        return index in self._ring.bad_lines or device is None or device.stuck or self._is_given_up(index)

    def _is_given_up(self, index: int) -> bool:
        """Whether it could not be read for longer than writers can be made to wait."""
        return bool(self.unreadable) and self.unreadable.over(int(self._ring.positions(np.array([index]))[0]))
