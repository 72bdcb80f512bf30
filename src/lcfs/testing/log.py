# SPDX-License-Identifier: GPL-2.0-or-later
"""A store that records what is done to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import attrs

from lcfs.engine.block_store import BlockStore, Buffer, Label
from lcfs.testing.fault import Operation
from lcfs.testing.layer import Layer


@attrs.define(eq=False)
class Call:
    """One call. `began` and `ended` are ticks of the log, over all stores that share it."""

    store: str
    operation: Operation
    offset: int
    length: int
    data: bytes = b""
    """What was written; empty where the log keeps none, and for other calls."""
    label: Label | None = None
    began: int = 0
    ended: int | None = None
    """None: not yet."""
    error: BaseException | None = None
    """What it raised, a cancellation included."""


@attrs.define(eq=False)
class Log:
    """The calls of one or more stores in the order in which they began.

    `now` ticks at each beginning and each end of a call, so that any two of them are ordered; whoever
    wants to place events of his own between them calls `tick`.
    """

    keep_data: bool = True
    calls: list[Call] = attrs.field(factory=list)
    now: int = 0

    def recorded(self, call: Call) -> AbstractContextManager[None]:
        """Notes when `call` begins, ends, and what it raised."""
        return _Recorded(self, call)

    def tick(self) -> int:
        """The next point in time."""
        self.now += 1
        return self.now

    def of(self, operation: Operation, store: str | None = None) -> list[Call]:
        """The calls of one kind, to one store or all."""
        return [c for c in self.calls if c.operation is operation and store in (None, c.store)]

    def count(self, operation: Operation, store: str | None = None) -> int:
        """How many."""
        return len(self.of(operation, store))

    def bytes_of(self, operation: Operation, store: str | None = None) -> int:
        """How many bytes they asked for."""
        return sum(c.length for c in self.of(operation, store))

    def carried_on(self) -> Log:
        """A log for who comes after a process that died now: calls it left in flight have ended."""
        copy = Log(self.keep_data, [], self.now)
        copy.calls = [attrs.evolve(c, ended=copy.tick()) if c.ended is None else c for c in self.calls]
        return copy

    def clear(self) -> None:
        """Forget the calls so far; time goes on."""
        self.calls.clear()


class LogStore(Layer):
    """Records every call in `log`, under the store's name."""

    def __init__(self, next: BlockStore, log: Log | None = None) -> None:
        super().__init__(next)
        self.log = Log() if log is None else log

    def readinto_nowait(self, offset: int, buffer: memoryview) -> bool:
        """Recorded when it was served."""
        if not self.next.readinto_nowait(offset, buffer):
            return False
        with self._recorded(Operation.READ, offset, len(buffer)):
            return True

    async def readinto(self, offset: int, buffer: memoryview) -> None:
        with self._recorded(Operation.READ, offset, len(buffer)):
            await self.next.readinto(offset, buffer)

    async def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        with self._recorded(Operation.WRITE, offset, len(data), data if self.log.keep_data else b""):
            await self.next.write(offset, buffers)

    async def flush(self) -> None:
        with self._recorded(Operation.FLUSH, 0, 0):
            await self.next.flush()

    async def discard(self, offset: int, length: int) -> None:
        with self._recorded(Operation.DISCARD, offset, length):
            await self.next.discard(offset, length)

    async def grow(self, size: int | None) -> None:
        with self._recorded(Operation.GROW, 0, size or 0):
            await super().grow(size)

    async def write_label(self, label: Label) -> None:
        with self._recorded(Operation.LABEL, 0, 0, label=label):
            await self.next.write_label(label)

    def _recorded(
        self, operation: Operation, offset: int, length: int, data: bytes = b"", label: Label | None = None
    ) -> AbstractContextManager[None]:
        return self.log.recorded(Call(self.name, operation, offset, length, data, label))


class _Recorded(AbstractContextManager[None]):
    def __init__(self, log: Log, call: Call) -> None:
        self.log = log
        self.call = call

    def __enter__(self) -> None:
        self.call.began = self.log.tick()
        self.log.calls.append(self.call)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.call.error = error
        self.call.ended = self.log.tick()
