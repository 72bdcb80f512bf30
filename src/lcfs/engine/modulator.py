# SPDX-License-Identifier: GPL-2.0-or-later
"""The modulator: allow_migrate from the load of the backings, and the two intervals (dm-lc's lc-daemon).

Every update_interval seconds allow_migrate becomes 1 if and only if every disk's backing was busy for at
most migrate_threshold percent of the time, or force_migrate is set. With update_interval 0 it leaves
allow_migrate to the operator. flush_current_buffer_interval and commit_super_block_interval act only
when there is something to flush or commit, so an idle cache writes nothing (B18).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import trio

from lcfs.engine.block_store import BlockStore
from lcfs.engine.errors import LcfsError

log = logging.getLogger("lcfs.engine.modulator")


class Load(Protocol):
    """A disk, as far as the modulator looks at it."""

    @property
    def id(self) -> int: ...
    @property
    def store(self) -> BlockStore | None: ...
    @property
    def migrate_threshold(self) -> int: ...


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
        self._busy: dict[int, int | None] = {}

    def wake(self) -> None:
        """A tunable changed, or there is work again."""
        self._wake.set()

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
                self._busy.clear()
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
        allow = 1
        for device in self._devices():
            store = device.store
            busy = store.busy_ms() if store is not None else None
            before = self._busy.get(device.id)
            self._busy[device.id] = busy
            if busy is None:
                continue
            # the first sample says nothing yet and counts as full load, as in 2013
            load = 100.0 if before is None else 100.0 * (busy - before) / (elapsed * 1000.0)
            if load > device.migrate_threshold:
                allow = 0
        allow = max(allow, self._tunables["force_migrate"])
        if allow != self._tunables["allow_migrate"]:
            self._tunables["allow_migrate"] = allow
            self._on_change()
