# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: what a request goes to, and the owner of all parts.

The request paths are inherited, a file each: log.py (the open record and durability), read_path.py, write_path.py.
Here are the parts that work in the background and what is done with a cache as a whole.

Everything without `async` is atomic: there is no await between looking at the tables and changing
them. `docs/concurrency.md` lists the stretches and what must be looked at again after an await.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import attrs
import trio

from lcfs.engine.block_store import BlockStore
from lcfs.engine.cached_device import CachedDevice
from lcfs.engine.disk_format import DiskEntry, RecordHeader, Superblock
from lcfs.engine.errors import Cancelled, InUse, LcfsError, Missing, NoSpace, NotPermitted
from lcfs.engine.geometry import LINE
from lcfs.engine.migrate import Migrator
from lcfs.engine.modulator import Modulator
from lcfs.engine.pace import Pace
from lcfs.engine.ring import Ring
from lcfs.engine.scrub import Scrub
from lcfs.engine.segment_map import Run, segment_map
from lcfs.engine.superblock import SuperblockWriter
from lcfs.engine.tunables import TUNABLES
from lcfs.engine.write_buffer import NR_BUFFERS
from lcfs.engine.write_path import WritePath

log = logging.getLogger("lcfs.engine.cache")


class Cache(WritePath):
    """One cache image and what is attached to it.

    Made by `recover.resume_cache`; `run` starts its daemons, `stop` ends it cleanly.
    """

    def __init__(
        self,
        number: int,
        image: BlockStore,
        superblock: Superblock,
        ring: Ring,
        last_record: RecordHeader | None,
        *,
        nr_buffers: int = NR_BUFFERS,
    ) -> None:
        super().__init__(number, image, superblock, ring, last_record, nr_buffers=nr_buffers)
        self.disk_table: Callable[[], tuple[DiskEntry, ...]] = lambda: superblock.disks
        """What the superblock is to say of the disks."""
        self.readonly = False
        """Nothing may be committed."""
        self._watches = []
        self._next_tail = ring.tail
        self._no_space_for_superblock = False
        self._dropping: trio.CancelScope | None = None
        self._daemons = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self.clean = False
        """It was stopped: the image is all there is to it."""
        self.superblock = SuperblockWriter(image, superblock, self.flush_image)
        self.migrator = Migrator(
            ring,
            image,
            wait_durable=self.make_durable,
            durable=lambda: self.durable,
            commit_tail=self._commit_tail,
            copy_forward=self.copy_forward,
            seal_copies=self.seal_copies,
            pace=Pace(
                ring,
                allowed=lambda: bool(self.tunables["allow_migrate"] or self.tunables["force_migrate"]),
                share=lambda: self.modulator.share,
                watermarks=lambda: self.tunables["update_interval"] > 0,
                starved=lambda: self.starved,
            ),
            batch_size=lambda: self.tunables["nr_max_batched_migration"],
            blocked=lambda: any(not device.struggling and not self.has_room(device) for device in self.waiting),
            on_stuck=self.give_up_waiting,
            on_progress=self._open_room,
            on_bad_line=self._on_bad_line,
        )
        self.scrub = Scrub(
            ring,
            image,
            superblock.uuid,
            unreadable=self.migrator.unreadable,
            is_in_ram=self._ram.__contains__,
            is_busy=self._is_busy,
            give_up_clean=self._give_up_line,
            on_bad_line=self._on_bad_line,
        )
        self.modulator = Modulator(
            self.tunables,
            devices=self.attached_devices,
            has_work=lambda: ring.tail <= ring.last_closed,
            on_change=self.migrator.wake,
            flush=self.flush_current_buffer,
            commit=self.commit_super_block,
            unflushed=lambda: self.appended > self.barriers.durable,
            uncommitted=lambda: self._snapshot() != self.superblock.current,
        )
        self.on_reserving = self.migrator.wake
        self.on_segment_closed = self._segment_closed

    # What it is and how it is

    @property
    def nr_segments(self) -> int:
        """Segments of the ring."""
        return self.geometry.nr_segments

    @property
    def nr_caches(self) -> int:
        """Nominal capacity in lines."""
        return self.geometry.nr_caches

    @property
    def nr_dirty_caches(self) -> int:
        """Dirty lines of all its disks."""
        return sum(device.nr_dirty_caches for device in self.attached_devices())

    @property
    def last_migrated_segment_id(self) -> int:
        """Highest id of which every line is on its backing, durably known to be."""
        return self.ring.tail - 1

    @property
    def current_segment_id(self) -> int:
        """Id of the newest segment."""
        return self.ring.segment_id

    @property
    def cursor(self) -> int:
        """Number of the line written most lately, counted in lines of the ring as in dm-lc."""
        if self.ring.segment_id == 0:
            return 0
        slot = self.geometry.slot(self.ring.segment_id)
        return slot * self.geometry.lines_per_segment + max(0, self._cursor - self._base - 2)

    @property
    def state(self) -> str:
        """`running`, `degraded` or `failed`, with the reason behind it."""
        if self._failure:
            return f"failed {self._failure}"
        if self.flusher.waits_for_space or self._no_space_for_superblock:
            return f"degraded no space left for {self.path}: free some, writing goes on by itself"
        bad = sum(1 for index in self.ring.bad_lines if self.states.dirty[index])
        if bad:
            return f"degraded {bad} damaged lines on {self.path}; run `lcfs check`"
        if any(segment_id >= self.ring.tail for segment_id in self.scrub.bad_records):
            return f"degraded damaged log records on {self.path}; write 1 to drop_caches before this is unmounted"
        if unread := self.migrator.unreadable.count():
            return f"degraded {unread} lines cannot be read from {self.path}; they stay dirty and are tried again"
        return "running"

    @property
    def migration(self) -> str:
        """`idle`, `migrating` or `waiting`, and behind it how, or why not."""
        activity = self.migrator.pace.activity
        if activity == "idle":
            return activity
        troubled = [device for device in self.attached_devices() if device.struggling and device.nr_dirty_caches]
        if activity == "waiting":
            activity += f" {self.modulator.reason}" if self.tunables["update_interval"] else " allow_migrate is 0"
        return activity + "".join(f"; disk {device.id} takes nothing just now" for device in troubled)

    def attached_devices(self) -> list[CachedDevice]:
        """Its disks, by id."""
        return [device for device in self.ring.devices if device is not None]

    def segment_map(self) -> list[Run]:
        """The ring from slot 0 on, in runs of neighbours of the same kind."""
        return segment_map(self.ring, self._ram.keys())

    def status_text(self) -> str:
        """dm-lc lc_mgr_status, all sixteen rows (B38)."""
        static = self.states.line.nbytes + self.states.crc.nbytes + 3 * self.geometry.nr_blocks
        static += sum(device.table.index.nbytes for device in self.attached_devices())
        static += NR_BUFFERS * self.geometry.segment_bytes
        static += self.tunables["nr_max_batched_migration"] * self.geometry.lines_per_segment * LINE
        return (
            f"static RAM(approx.): {static} (byte)\n"
            f"allow_migrate: {self.tunables['allow_migrate']}\n"
            f"nr_segments: {self.nr_segments}\n"
            f"last_migrated_segment_id: {self.last_migrated_segment_id}\n"
            f"last_flushed_segment_id: {self.last_flushed_segment_id}\n"
            f"current segment id: {self.current_segment_id}\n"
            f"cursor: {self.cursor}\n"
            "\n"
            "write? hit? on_buffer? fullsize?\n"
        ) + self.stats.text()

    # Management

    def _segment_closed(self) -> None:
        self.migrator.wake()
        self.modulator.wake()

    def _is_busy(self) -> bool:
        """Whether requests wait for the image."""
        return self._reading > 0 or (not self._failure and (self.flusher.busy or self.barriers.busy))

    def _on_bad_line(self, device: CachedDevice, index: int) -> None:
        self.crc_errors += 1
        log.error("line %d of disk %d is damaged on %s", self.states.line[index], device.id, self.path)

    def _snapshot(self) -> Superblock:
        current = self.superblock.current
        disks = self.disk_table()
        stored = dict(self.tunables)
        if stored["update_interval"]:
            stored["allow_migrate"] = TUNABLES["allow_migrate"].default
        return attrs.evolve(
            current,
            cache_id=self.id,
            tail=max(self.ring.tail, self._next_tail),
            head=max(current.head, self.barriers.durable),
            clean=self.clean,
            tunables=stored,
            disks=disks,
            had_disk=current.had_disk or bool(disks),
        )

    async def commit(self, *, both: bool = False) -> None:
        """Make the superblock as it now should be durable. Raises Failed, NotPermitted (EROFS)."""
        if self.readonly:
            raise NotPermitted(f"cache {self.id} is mounted read-only", errno=errno.EROFS)
        try:
            await self.superblock.commit(self._snapshot, both=both)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                # nothing depends on a commit before it is durable, and the next one goes to the same copy
                self._no_space_for_superblock = True
                reason = f"no space left for the superblock of {self.path}; free some, it is tried again by itself"
                self._open_room(reason)
                raise NoSpace(reason) from exc
            self.fail(f"the superblock could not be written to {self.path}: {exc.strerror or exc}")
            self.check()
        self._no_space_for_superblock = False

    async def _commit_tail(self, tail: int) -> None:
        """Give up the segments before `tail`: first durably, then in memory."""
        self._next_tail = max(self._next_tail, tail)
        await self.commit()
        self.ring.tail = max(self.ring.tail, tail)
        self._open_room()

    async def begin(self) -> None:
        """Begin the generation that recovery prepared. No request is taken before. Raises Failed.

        The superblock will say that the log is durable up to its end, so a flush makes that true first.
        """
        await self.flush_image()
        await self.commit(both=True)

    async def set_tunable(self, name: str, value: int) -> None:
        """Change a tunable; durable when this returns. Raises Invalid outside its range."""
        before, self.tunables[name] = self.tunables[name], TUNABLES[name].check(value)
        try:
            await self.commit(both=True)
        except BaseException:
            self.tunables[name] = before
            raise
        self.migrator.wake()
        self.modulator.wake()

    async def flush_current_buffer(self) -> None:
        """RAM to the image, durably; nothing to do when nothing is dirty there (dm-lc flush_current_buffer_sync, B18)."""
        await self.barrier()

    async def commit_super_block(self) -> None:
        """Write the superblock (dm-lc commit_super_block)."""
        await self.commit()

    async def drain(self, device: CachedDevice) -> None:
        """Write back all lines of a disk that are dirty now. Raises Missing, Failed."""
        await self.barrier()
        await self.migrator.drain(device, self.barriers.durable)

    def start_scrub(self) -> None:
        """Verify what is on the image, in the background. Raises InUse, NotPermitted (EROFS)."""
        if self.readonly:
            raise NotPermitted(f"cache {self.id} is mounted read-only; use `lcfs check`", errno=errno.EROFS)
        self.scrub.start()

    async def drop_caches(self) -> None:
        """Flush, migrate every dirty line, close the open segment.

        Raises Cancelled when called off; Missing (ENODEV) or Failed when lines of a disk cannot be written back, after
        all others are.
        """
        if self.readonly and self.nr_dirty_caches:
            raise NotPermitted(f"cache {self.id} is mounted read-only", errno=errno.EROFS)
        if self._dropping is not None:
            raise InUse(f"cache {self.id} is being dropped already; wait for it")
        with trio.CancelScope() as self._dropping:
            try:
                await self._drop_caches()
            finally:
                self._dropping = None
            return
        raise Cancelled(f"called off; {self.nr_dirty_caches} lines of cache {self.id} are still dirty")

    def cancel_drop(self) -> bool:
        """Call off a `drop_caches` that is under way; False when none is."""
        if self._dropping is None:
            return False
        self._dropping.cancel()
        return True

    async def _drop_caches(self) -> None:
        await self.barrier()
        self.close_segment()
        await self.barrier()
        position = self.barriers.durable
        errors: list[LcfsError] = []

        async def drain_one(device: CachedDevice) -> None:
            try:
                await self.migrator.drain(device, position)
            except LcfsError as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            for device in self.attached_devices():
                if device.nr_dirty_caches:
                    nursery.start_soon(drain_one, device)
        await self.migrator.advance_tail(self.ring.last_closed)
        self.check()
        if errors:
            raise min(errors, key=lambda exc: isinstance(exc, Missing))

    def attach(self, device: CachedDevice) -> None:
        """Lines of `device` are cached from now on."""
        assert self.ring.devices[device.id] is None, device.id
        self.ring.devices[device.id] = device

    def release(self, device: CachedDevice) -> None:
        """Forget a disk and all its lines."""
        self.ring.forget_device(device.id)
        self.ring.devices[device.id] = None
        device.nr_dirty_caches = 0
        self.migrator.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The daemons: flush, barriers, migration, modulation. Started when all are up; ends only by `stop`."""
        self._ended = trio.Event()
        try:
            with self._daemons:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.flusher.run)
                    nursery.start_soon(self.barriers.run)
                    await nursery.start(self.migrator.run)
                    nursery.start_soon(self.modulator.run)
                    nursery.start_soon(self.scrub.run)
                    task_status.started()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """RAM to the image, the daemons ended, then a superblock that says the image is clean.

        No request may be taken any more. Raises Failed or NoSpace when something acknowledged could not be made
        durable; the daemons are ended all the same.
        """
        try:
            await self.migrator.stop()
            await self.barrier()
        finally:
            self._daemons.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
        # nothing but this commit writes to the image from here on
        self.clean = True
        await self.commit(both=True)
