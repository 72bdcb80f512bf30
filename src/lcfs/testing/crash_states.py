# SPDX-License-Identifier: GPL-2.0-or-later
"""Every state that a crash could have left, worked out afterwards from the log of a run.

A run is made once, on stores that log their calls. From the media as they were and the log follow, for
each I/O boundary, the content that was durable and the writes that were not: `crash_points`. Of those
writes any subset may survive, torn or whole, on each medium for itself: `survivals`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import attrs

from lcfs.engine.block_store import Label
from lcfs.testing.fault import Operation
from lcfs.testing.image import SparseImage
from lcfs.testing.log import Call, Log
from lcfs.testing.memory import UNDEFINED, Medium
from lcfs.testing.unsynced import ALL, UnsyncedWrite, apply_survivors, whole_sectors

EXHAUSTIVE = 6
"""Up to so many unsynced writes, every subset of them is tried."""
SAMPLES = 24
"""Subsets tried where there are more."""


@attrs.frozen(eq=False)
class Pending:
    """Something that may or may not have reached the medium at `path`: a write, or a label."""

    path: str
    call: Call
    write: UnsyncedWrite | None


@attrs.frozen(eq=False)
class CrashPoint:
    """A moment between two calls: what was durable, and what may be there besides."""

    at: float
    """In ticks of the log: everything up to and including this tick had happened."""
    durable: Mapping[str, Medium]
    pending: Sequence[Pending]

    def media(self, survival: Sequence[int]) -> dict[str, Medium]:
        """What a machine finds when `survival`, one mask per pending write, has reached the media."""
        found = dict(self.durable)
        for path in {pending.path for pending in self.pending}:
            medium = self.durable[path]
            image, label = medium.durable.copy(), medium.label
            for pending, kept in zip(self.pending, survival, strict=True):
                if pending.path == path and kept:
                    if pending.write is None:
                        label = pending.call.label
                    else:
                        apply_survivors(image, [pending.write], [kept])
            found[path] = Medium(image, label, labels=medium.labels)
        return found


class _Replay:
    """One medium, taken through the log."""

    def __init__(self, medium: Medium) -> None:
        self.image: SparseImage = medium.durable.copy()
        self.live = self.image.copy()
        self.label: Label | None = medium.label
        self.labels = medium.labels
        self.pending: dict[Call, UnsyncedWrite | None] = {}
        self.covered: dict[Call, list[Call]] = {}
        self.frozen: Medium | None = None

    def begin(self, call: Call) -> None:
        if call.operation in (Operation.WRITE, Operation.DISCARD):
            data = call.data if call.operation is Operation.WRITE else bytes([UNDEFINED]) * call.length
            self.pending[call] = UnsyncedWrite(*whole_sectors(call.offset, data, self.live))
            if call.error is None:
                self.live.write(call.offset, data)
        elif call.operation is Operation.LABEL:
            self.pending[call] = None
        elif call.operation is Operation.FLUSH:
            began = call.began
            self.covered[call] = [c for c in self.pending if c.error is None and c.ended is not None and c.ended < began]

    def end(self, call: Call) -> None:
        if call.operation is Operation.LABEL and call.error is None:
            self.label = call.label
            self._settle([call])
        elif call.operation is Operation.FLUSH and call.error is None:
            covered = [c for c in self.covered.pop(call) if c in self.pending]
            for write_call in sorted(covered, key=lambda c: c.ended or 0):
                write = self.pending[write_call]
                assert write is not None
                self.image.write(write.offset, write.data)
            self._settle(covered)

    def _settle(self, calls: Sequence[Call]) -> None:
        for call in calls:
            del self.pending[call]
        self.frozen = None

    def medium(self) -> Medium:
        if self.frozen is None:
            self.frozen = Medium(self.image.copy(), self.label, labels=self.labels)
        return self.frozen


def crash_points(media: Mapping[str, Medium], log: Log, since: float = 0) -> Iterator[CrashPoint]:
    """The moments of a run at which what may survive differs, in order; the last is its end.

    `media` are what the run began with, everything durable. Each moment is the latest before the next
    change, when most has been acknowledged. Those before the tick `since` are left out.
    """
    replays = {path: _Replay(medium) for path, medium in media.items()}
    events = [(call.began, True, call) for call in log.calls if call.operation is not Operation.READ]
    events += [(call.ended, False, call) for _, _, call in events if call.ended is not None]
    events.sort(key=lambda event: event[0])
    for time, begins, call in events:
        changes = call.operation is not Operation.FLUSH if begins else call.operation in _SETTLING
        if changes and time > since:
            yield _point(replays, time - 1)
        if call.operation is Operation.CREATE:
            if begins:
                replays[call.store] = _Replay(Medium(SparseImage(call.length)))
        elif begins:
            replays[call.store].begin(call)
        else:
            replays[call.store].end(call)
    yield _point(replays, math.inf)


_SETTLING = (Operation.FLUSH, Operation.LABEL)


def _point(replays: Mapping[str, _Replay], at: float) -> CrashPoint:
    pending = [Pending(path, call, write) for path, r in replays.items() for call, write in r.pending.items()]
    pending.sort(key=lambda p: p.call.began)
    return CrashPoint(at, {path: replay.medium() for path, replay in replays.items()}, pending)


def survivals(pending: Sequence[Pending], rng: random.Random) -> Iterator[list[int]]:
    """What may survive of the pending writes: all subsets of a few, a sample of many; then torn ones."""
    count = len(pending)
    if count <= EXHAUSTIVE:
        yield from ([ALL if there else 0 for there in subset] for subset in itertools.product((1, 0), repeat=count))
    else:
        yield [ALL] * count
        yield [0] * count
        for _ in range(SAMPLES):
            share = rng.random()
            yield [ALL if rng.random() < share else 0 for _ in range(count)]
    for torn, chosen in enumerate(pending):
        if chosen.write is None or chosen.write.nr_sectors < 2:
            continue
        sectors = chosen.write.nr_sectors
        cut = (1 << rng.randrange(1, sectors)) - 1
        mask = rng.choice((cut, ~cut & (1 << sectors) - 1, rng.getrandbits(sectors)))
        rest = rng.choice((1.0, 0.0, 0.5))
        yield [mask if i == torn else ALL if rng.random() < rest else 0 for i in range(count)]
