# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system in memory in which every call can be counted, and made to fail: those of open files and those of paths."""

from __future__ import annotations

import enum
import errno
import os
from collections import defaultdict
from collections.abc import Mapping

import attrs

from lcfs.engine.block_store import BlockStore, Fill, Place
from lcfs.engine.errors import NoSpace, NotPermitted, Unsuitable
from lcfs.testing import Effect, Fault, FaultStore, Medium, MemoryStorage, Operation

UNCOUNTED = 1 << 62
"""Calls that a fault lets through when all it is there for is to count."""


class Kind(enum.Enum):
    """The kinds of I/O that lcfs makes."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    LABEL = "label"
    GROW = "grow"
    LOOK = "look"
    OPEN = "open"
    CREATE = "create"
    REMOVE = "remove"


OF_STORE = {
    Kind.READ: Operation.READ,
    Kind.WRITE: Operation.WRITE,
    Kind.FLUSH: Operation.FLUSH,
    Kind.LABEL: Operation.LABEL,
    Kind.GROW: Operation.GROW,
}
"""Calls on an open file; the other kinds are calls on a path."""


@attrs.frozen
class Spot:
    """Where I/O goes: a path, and what is done there."""

    path: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind.value} of {self.path}"


@attrs.frozen
class Trouble:
    """How a call fails."""

    name: str
    effect: Effect = Effect.ERROR
    error: int = errno.EIO


EIO = Trouble("EIO")
ENOSPC = Trouble("ENOSPC", error=errno.ENOSPC)
SHORT = Trouble("short", Effect.SHORT)
SHORT_ENOSPC = Trouble("short, ENOSPC", Effect.SHORT, errno.ENOSPC)
DONE = Trouble("done, EIO", Effect.DONE)
LOSE = Trouble("lost, EIO", Effect.LOSE)
CORRUPT = Trouble("corrupt", Effect.CORRUPT)
HANG = Trouble("hang", Effect.HANG)


def troubles_of(spot: Spot) -> tuple[Trouble, ...]:
    """What can go wrong there. A wrong bit is something only cache images can be asked to notice."""
    if spot.kind is Kind.READ:
        return (EIO, SHORT, HANG, CORRUPT) if spot.path.startswith("/ssd") else (EIO, SHORT, HANG)
    if spot.kind is Kind.WRITE:
        return EIO, ENOSPC, SHORT, SHORT_ENOSPC, DONE, HANG
    if spot.kind is Kind.FLUSH:
        return EIO, ENOSPC, LOSE, DONE, HANG
    if spot.kind is Kind.GROW:
        return EIO, ENOSPC, DONE, HANG
    if spot.kind is Kind.LOOK:
        return (HANG,)
    return EIO, ENOSPC, HANG


class FaultyStorage(MemoryStorage):
    """`census` counts the calls at each spot, `spoil` makes some of them fail."""

    def __init__(self, media: Mapping[str, Medium]) -> None:
        super().__init__(media, wrap=self._wrap_faulty, nowait=False)
        self._of_store: defaultdict[str, list[Fault]] = defaultdict(list)
        """By path, for all stores opened there, now or later."""
        self._of_path: defaultdict[Spot, list[Fault]] = defaultdict(list)
        self._counters: dict[Spot, Fault] = {}

    def spoil(self, spot: Spot, trouble: Trouble, *, skip: int = 0, times: int | None = 1) -> Fault:
        """Let calls there go wrong, after letting `skip` of them through. Release the fault to end it."""
        fault = Fault(OF_STORE.get(spot.kind, Operation.LABEL), trouble.effect, trouble.error, skip=skip, times=times)
        self._faults_at(spot).append(fault)
        return fault

    def start_census(self, paths: list[str]) -> None:
        """Count the calls from now on."""
        for path in paths:
            for kind in Kind:
                spot = Spot(path, kind)
                self._counters[spot] = self.spoil(spot, EIO, skip=UNCOUNTED)

    def census(self) -> dict[Spot, int]:
        """The calls since `start_census`; ends it."""
        counts = {spot: UNCOUNTED - fault.skip for spot, fault in self._counters.items()}
        for spot, fault in self._counters.items():
            self._faults_at(spot).remove(fault)
        self._counters.clear()
        return {spot: count for spot, count in counts.items() if count}

    async def look(self, path: str) -> Place:
        await self._meet(path, Kind.LOOK)
        return await super().look(path)

    async def open(self, path: str, *, readonly: bool = False) -> BlockStore:
        fault = await self._meet(path, Kind.OPEN)
        if fault is not None:
            raise Unsuitable(f"{path} cannot be opened: {os.strerror(fault.error)}", errno=fault.error)
        return await super().open(path, readonly=readonly)

    async def create(self, path: str, size: int, fill: Fill | None = None) -> BlockStore:
        fault = await self._meet(path, Kind.CREATE)
        if fault is not None:
            error = NoSpace if fault.error == errno.ENOSPC else NotPermitted
            raise error(f"{path} cannot be created: {os.strerror(fault.error)}", errno=fault.error)
        existed = path in self.media
        try:
            return await super().create(path, size, fill)
        except BaseException:
            if not existed:
                # what could not be filled never had its name
                self._opened[path].closed = True
                del self.media[path]
            raise

    async def remove(self, path: str) -> None:
        fault = await self._meet(path, Kind.REMOVE)
        if fault is not None:
            raise OSError(fault.error, f"{path}: injected {os.strerror(fault.error)}")
        await super().remove(path)

    def still_open(self) -> list[str]:
        """The paths that somebody still holds."""
        return [path for path in self.media if self.is_open(path)]

    async def _meet(self, path: str, kind: Kind) -> Fault | None:
        for fault in self._of_path[Spot(path, kind)]:
            if fault.meets(Operation.LABEL, 0, 0):
                if fault.effect is not Effect.HANG:
                    return fault
                await fault.wait_released()
        return None

    def _wrap_faulty(self, path: str, store: BlockStore) -> BlockStore:
        faulty = FaultStore(store)
        faulty.faults = self._of_store[path]
        return faulty

    def _faults_at(self, spot: Spot) -> list[Fault]:
        return self._of_store[spot.path] if spot.kind in OF_STORE else self._of_path[spot]
