# SPDX-License-Identifier: GPL-2.0-or-later
"""The modulator: allow_migrate from the load of the backings, and the two intervals (dm-lc's lc-daemon).

Every update_interval seconds allow_migrate becomes 1 if and only if every disk's backing was busy for at
most migrate_threshold percent of the time, or force_migrate is set. Of that time migration is given `share`,
what others leave of the threshold, so that its own work does not push the load over it. The load is io_ticks of
the block device under the backing; where there is none, the time our own requests were in flight and what
their latency is above its quiet level. With update_interval 0 it leaves allow_migrate to the operator, and migration
has all the time it wants. flush_current_buffer_interval and commit_super_block_interval act only when there is
something to flush or commit, so an idle cache writes nothing (B18).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import trio

from lcfs.engine.backing_load import BackingLoad
from lcfs.engine.block_store import BlockStore
from lcfs.engine.errors import LcfsError

log = logging.getLogger("lcfs.engine.modulator")

AIM = 0.9
"""How much of what others leave of its threshold migration uses: at all of it every second sample would be above."""
LEAST_SHARE = 0.05
NOT_KNOWN = "the load is not known yet"


class Load(Protocol):
    """A disk, as far as the modulator looks at it."""

    @property
    def id(self) -> int: ...
    @property
    def store(self) -> BlockStore | None: ...
    @property
    def migrate_threshold(self) -> int: ...
    @property
    def load(self) -> BackingLoad: ...


class Modulator:
    """The modulator of one cache."""

    def __init__(
        self,
        tunables: dict[str, int],
        *,
        devices: Callable[[], Iterable[Load]],
        has_work: Callable[[], bool],
        on_change: Callable[[], None],
        flush: Callable[[], Awaitable[None]],
        commit: Callable[[], Awaitable[None]],
        unflushed: Callable[[], bool],
        uncommitted: Callable[[], bool],
    ) -> None:
        self._tunables = tunables
        self._devices = devices
        self._has_work = has_work
        self._on_change = on_change
        self._actions = (
            ("flush_current_buffer_interval", unflushed, flush),
            ("commit_super_block_interval", uncommitted, commit),
        )
        self._wake = trio.Event()
        self._before: dict[int, tuple[float | None, float, float]] = {}
        """By disk: seconds its device was at work, our requests were in flight, and migration was."""
        self._share = 1.0
        self.reason = NOT_KNOWN
        """Why allow_migrate is 0, when this has set it so."""

    def wake(self) -> None:
        """A tunable changed, or there is work again."""
        self._wake.set()

    @property
    def share(self) -> float:
        """Of the time that migration may take while it is allowed; 1 is all."""
        return self._share if self._tunables["update_interval"] and not self._tunables["force_migrate"] else 1.0

    async def run(self) -> None:
        """Tick while there is something to decide; otherwise wait for `wake`."""
        now = trio.current_time()
        sampled = now
        acted = {name: now for name, _, _ in self._actions}
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            due = []
            interval = self._tunables["update_interval"]
            if interval and self._has_work():
                if now >= sampled + interval:
                    self._decide(now - sampled)
                    sampled = now
                due.append(sampled + interval)
            else:
                self._before.clear()
                self.reason = NOT_KNOWN
                sampled = now
            for name, wanted, action in self._actions:
                interval = self._tunables[name]
                if not interval:
                    acted[name] = now
                    continue
                if now >= acted[name] + interval:
                    acted[name] = now
                    try:
                        if wanted():
                            await action()
                    except (LcfsError, OSError) as exc:
                        log.warning("%s: %s", name, exc)
                due.append(acted[name] + interval)
            with trio.move_on_at(min(due, default=float("inf"))):
                await self._wake.wait()

    def _decide(self, elapsed: float) -> None:
        allow, share = 1, 1.0
        for device in self._devices():
            if device.store is None:
                continue
            sample = self._sample(device, device.store, elapsed)
            threshold = device.migrate_threshold
            if sample is None:
                # the first sample says nothing yet and counts as full load, as in 2013
                if threshold < 100:
                    allow, self.reason = 0, NOT_KNOWN
                continue
            load, own = sample
            device.load.percent = load
            if load > threshold:
                allow = 0
                self.reason = f"disk {device.id} is busy: {load:.0f} %, its migrate_threshold is {threshold} %"
            elif threshold < 100:
                share = min(share, AIM * (threshold - max(0.0, load - own)) / 100)
        self._share = max(LEAST_SHARE, share)
        allow = max(allow, self._tunables["force_migrate"])
        if allow != self._tunables["allow_migrate"]:
            self._tunables["allow_migrate"] = allow
            self._on_change()

    def _sample(self, device: Load, store: BlockStore, elapsed: float) -> tuple[float, float] | None:
        """Percent of the time since the last sample that the backing was at work, and that migration was at it."""
        busy = store.busy_ms()
        ours, own = device.load.requests.seconds, device.load.migration.seconds
        slowness = device.load.slowness()
        before = self._before.get(device.id)
        self._before[device.id] = (None if busy is None else busy / 1000, ours, own)
        if busy is None:
            at_work = (ours - before[1]) / elapsed + slowness if before is not None else slowness
        elif before is None or before[0] is None:
            return None
        else:
            at_work = (busy / 1000 - before[0]) / elapsed
        return 100.0 * min(1.0, at_work), 100.0 * (own - before[2]) / elapsed if before is not None else 0.0
