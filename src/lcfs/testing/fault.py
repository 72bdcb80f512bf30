# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that fails on request."""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Sequence

import attrs
import trio

from lcfs.engine.block_store import BlockStore, Buffer, Label
from lcfs.engine.geometry import SECTOR
from lcfs.testing.layer import Layer


class Operation(enum.Enum):
    """The kinds of call a store gets."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    LABEL = "label"
    GROW = "grow"
    CREATE = "create"
    """Of the store itself; only a log knows this one."""


class Effect(enum.Enum):
    """What a call that meets a fault does."""

    ERROR = "error"
    """Raises, nothing done."""
    SHORT = "short"
    """A read fills, or a write stores, half of its sectors; then it raises."""
    DONE = "done"
    """A write, flush or growth takes effect and raises all the same: the answer was lost."""
    LOSE = "lose"
    """A flush raises, and what it should have covered never becomes durable (Linux after a failed fsync)."""
    HANG = "hang"
    """Waits until the fault is released or the caller cancelled; released, the call goes through."""
    CORRUPT = "corrupt"
    """A read succeeds with one bit flipped: the silent error of a medium."""


@attrs.define(eq=False)
class Fault:
    """What fails, when, and how. `met` counts the calls that met it."""

    operation: Operation
    effect: Effect = Effect.ERROR
    error: int = errno.EIO
    skip: int = 0
    """Matching calls to let through first: 2 fails the third."""
    times: int | None = 1
    """Calls to fail; None: for ever."""
    start: int = 0
    end: int | None = None
    """Only calls that touch bytes from `start` to before `end`; a flush, label or growth touches all."""
    met: int = 0
    _released: trio.Event = attrs.field(factory=trio.Event, init=False)

    def release(self) -> None:
        """It is over: calls that hang go through, further calls meet it no more."""
        self.times = self.met
        self._released.set()

    async def wait_released(self) -> None:
        """Until `release`."""
        await self._released.wait()

    def meets(self, operation: Operation, offset: int, length: int) -> bool:
        """Whether this call meets it; counts the call."""
        if operation is not self.operation:
            return False
        if operation not in (Operation.FLUSH, Operation.LABEL, Operation.GROW):
            if offset + length <= self.start or (self.end is not None and offset >= self.end):
                return False
        if self.times is not None and self.met >= self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.met += 1
        return True


class FaultStore(Layer):
    """Calls meet the first of `faults` that fits them; the list may be changed at any time."""

    def __init__(self, next: BlockStore, *faults: Fault) -> None:
        super().__init__(next)
        self.faults = list(faults)

    def add(self, fault: Fault) -> Fault:
        """Put `fault` in; returns it, to watch or release."""
        self.faults.append(fault)
        return fault

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        """Never where a read fault is still to come: `readinto` meets it."""
        for fault in self.faults:
            if fault.operation is Operation.READ and (fault.times is None or fault.met < fault.times):
                return False
        return self.next.readinto_nowait(offset, buffer)

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        fault = await self._meet(Operation.READ, offset, len(buffer))
        if fault is None:
            await self.next.readinto(offset, buffer)
        elif fault.effect is Effect.CORRUPT:
            await self.next.readinto(offset, buffer)
            buffer[len(buffer) // 2] ^= 0x10
        else:
            if fault.effect is Effect.SHORT:
                await self.next.readinto(offset, buffer[: _half(len(buffer))])
            raise self._error(fault)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        length = sum(map(len, buffers))
        fault = await self._meet(Operation.WRITE, offset, length)
        if fault is None or fault.effect is Effect.DONE:
            await self.next.write(offset, buffers)
        elif fault.effect is Effect.SHORT:
            await self.next.write(offset, [b"".join(buffers)[: _half(length)]])
        if fault is not None:
            raise self._error(fault)

    async def flush(self) -> None:
        fault = await self._meet(Operation.FLUSH, 0, 0)
        if fault is None or fault.effect is Effect.DONE:
            await self.next.flush()
        elif fault.effect is Effect.LOSE:
            self.lose_unsynced()
        if fault is not None:
            raise self._error(fault)

    async def discard(self, offset: int, length: int) -> None:
        fault = await self._meet(Operation.DISCARD, offset, length)
        if fault is not None:
            raise self._error(fault)
        await self.next.discard(offset, length)

    async def grow(self, size: int | None) -> None:
        fault = await self._meet(Operation.GROW, 0, 0)
        if fault is None or fault.effect is Effect.DONE:
            await super().grow(size)
        if fault is not None:
            raise self._error(fault)

    async def read_label(self) -> Label | None:
        fault = await self._meet(Operation.LABEL, 0, 0)
        if fault is not None:
            raise self._error(fault)
        return await self.next.read_label()

    async def write_label(self, label: Label) -> None:
        fault = await self._meet(Operation.LABEL, 0, 0)
        if fault is not None:
            raise self._error(fault)
        await self.next.write_label(label)

    async def _meet(self, operation: Operation, offset: int, length: int) -> Fault | None:
        for fault in self.faults:
            if fault.meets(operation, offset, length):
                if fault.effect is not Effect.HANG:
                    return fault
                await fault.wait_released()
                return None
        return None

    def _error(self, fault: Fault) -> OSError:
        return OSError(fault.error, f"{self.name}: injected {os.strerror(fault.error)}")


def _half(length: int) -> int:
    return length // 2 // SECTOR * SECTOR
