# SPDX-License-Identifier: GPL-2.0-or-later
"""What lcfs promises, as a plain model: which contents of the disks are right, now and after a crash.

The model holds, per 512-byte sector, the versions that were written to it, each part of a *piece*: what
one request writes to one 4-KiB line. Time is a counter; a piece has the time at which its request was
issued (`began`) and the one at which it was acknowledged. A piece comes *before* another when it was
acknowledged before that one was issued; between requests in flight side by side no order is promised.

R1: a piece acknowledged before a barrier of its disk was issued is durable once the barrier has returned.
R2: a sector holds a version that was written to it, not older than its last durable one.
R3: there is a set of pieces, closed under "before", that contains all durable ones, such that each sector
holds the last of its versions in the set. Pieces of all disks of one cache belong together; those written
to a disk while it has no cache are each for themselves, as on any disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import attrs

from lcfs.engine.block_store import Buffer
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.testing.tags import describe, tagged

NEVER = math.inf
GONE = -1
"""In the place of a disk's cache: there is no such disk."""


class Violation(AssertionError):
    """A promise that was broken: which, where, and what was found there."""

    def __init__(self, promise: str, disk: int, sector: int, sentence: str) -> None:
        super().__init__(f"{promise}: disk {disk} sector {sector} {sentence}")
        self.promise = promise
        self.disk = disk
        self.sector = sector


@attrs.define(eq=False)
class Piece:
    """What one request writes to one line."""

    number: int
    disk: int
    cache: int | None
    """The cache of the disk at that time; pieces of one cache are recovered as a prefix."""
    began: float
    acknowledged: float = NEVER
    living: int = 0
    """Versions of it that may still be found."""
    died: float = NEVER
    """When there were none left."""

    def alive(self, at: float) -> bool:
        """Whether a crash at that time could leave any of it."""
        return self.began <= at and (at < self.died or self.died == NEVER)

    def __str__(self) -> str:
        return f"write {self.number}"


_INITIAL = Piece(0, 0, None, -1, -1)


@attrs.define(eq=False)
class Version:
    """The content of one sector from one piece on."""

    piece: Piece
    content: bytes
    died: float = NEVER
    """When a recovery showed that it was lost: from then on it must not come back."""

    def alive(self, at: float) -> bool:
        """Whether a crash at that time could leave it."""
        return self.piece.began <= at and (at < self.died or self.died == NEVER)


@attrs.define(eq=False)
class Write:
    """A request in flight: `data` is what to write."""

    model: Model
    number: int
    disk: int
    offset: int
    data: bytes
    pieces: list[Piece]

    def acknowledge(self) -> None:
        """It returned: from now on nothing older may be read."""
        now = self.model.now()
        for piece in self.pieces:
            piece.acknowledged = now


@attrs.define(eq=False)
class Barrier:
    """A flush of one disk in flight."""

    model: Model
    disk: int
    began: float

    def done(self) -> None:
        """It returned without an error: what was acknowledged before it began is durable."""
        self.model.note_durable(self.disk, self.began)


@attrs.define(eq=False)
class CacheChange:
    """An attach, detach, creation or removal in flight (R9: a crash leaves the disk as before or after)."""

    model: Model
    disk: int
    cache: int | None
    began: float
    ended: float = NEVER

    def done(self) -> None:
        """It returned: the disk has `cache` from now on. What a detach leaves behind is durable on the backing."""
        self.ended = self.model.now()
        self.model.note_cache(self.disk, self.cache)

    def called_off(self) -> None:
        """It was cancelled before anything could have come of it."""
        self.model.forget_change(self)


Matches = list[tuple[tuple[int, int], list[Version]]]
"""For written sectors (disk, sector) the versions, oldest first, whose content they have."""
MOST_MATCHES = 64
"""Contents of disks of which that is kept."""


class Clock:
    """Ticks with each reading."""

    def __init__(self) -> None:
        self.time = 0

    def __call__(self) -> int:
        """The next point in time."""
        self.time += 1
        return self.time


class Model:
    """The disks of a mount as they ought to be.

    `now` gives the time, growing with each call; give the `tick` of a log to judge states of the past.
    """

    def __init__(self, now: Callable[[], int] | None = None) -> None:
        self.now = Clock() if now is None else now
        self.sizes: dict[int, int] = {}
        self.caches: dict[int, int | None] = {}
        self.writes = 0
        self._versions: dict[tuple[int, int], list[Version]] = {}
        self._by_content: dict[tuple[int, int], dict[bytes, list[Version]]] = {}
        """`_versions` again, found by what a sector holds."""
        self._matches: dict[tuple[int, bytes], Matches] = {}
        """What `_matching` has found out about the contents of disks, until there are more versions."""
        self._pieces: list[Piece] = []
        self._base: dict[int, bytes] = {}
        """Per disk, what it held before any version."""
        self._changes: dict[int, list[CacheChange]] = {}
        self._in_flight: list[Piece] = []
        self._durable: dict[int, list[tuple[float, float]]] = {}
        """Per disk, (when a barrier returned, when it began)."""

    def add_disk(self, disk: int, size: int, cache: int | None, content: bytes | None = None) -> None:
        """A disk of zeros, or with `content`, all durable. With GONE for its cache it is still to be created."""
        assert content is None or len(content) == size
        self.sizes[disk] = size
        self.caches[disk] = cache
        self._base[disk] = bytes(size) if content is None else content
        self._matches.clear()
        self._durable[disk] = []
        self._changes[disk] = [CacheChange(self, disk, cache, -1, -1)]

    def begin_change(self, disk: int, cache: int | None) -> CacheChange:
        """An attach to `cache`, a detach (None), a creation or a removal (GONE) of `disk` is issued."""
        change = CacheChange(self, disk, cache, self.now())
        self._changes[disk].append(change)
        return change

    def grow_disk(self, disk: int, size: int) -> None:
        """The disk is, or is about to be, longer: what is added is zero."""
        self._base[disk] += bytes(size - self.sizes[disk])
        self.sizes[disk] = size

    def forget_change(self, change: CacheChange) -> None:
        """That change never was."""
        self._changes[change.disk].remove(change)

    def begin_write(self, disk: int, offset: int, length: int) -> Write:
        """A write is issued. Only its first `len(data)` bytes fit the disk."""
        length = min(length, self.sizes[disk] - offset)
        assert offset >= 0 and length > 0, (offset, length)
        self.writes += 1
        data = tagged(disk, offset, length, self.writes)
        began = self.now()
        pieces: list[Piece] = []
        for line in range(offset // LINE, (offset + length - 1) // LINE + 1):
            piece = Piece(self.writes, disk, self.caches[disk], began)
            pieces.append(piece)
            self._pieces.append(piece)
            begin, end = max(offset, line * LINE), min(offset + length, (line + 1) * LINE)
            for sector in range(begin // SECTOR, (end - 1) // SECTOR + 1):
                self._add_version(piece, sector, begin, end, data, offset)
        self._in_flight = [p for p in self._in_flight if p.acknowledged == NEVER] + pieces
        return Write(self, self.writes, disk, offset, data, pieces)

    def begin_barrier(self, disk: int) -> Barrier:
        """A flush of `disk` is issued."""
        return Barrier(self, disk, self.now())

    def note_durable(self, disk: int, before: float) -> None:
        """What was acknowledged on `disk` before that time is durable from now on."""
        self._durable[disk].append((self.now(), before))

    def check_read(self, disk: int, offset: int, data: Buffer, began: float | None = None) -> None:
        """`data` was read from `offset` by a request issued at `began` (by default: now). Raises Violation."""
        began = self.now() if began is None else began
        content = bytes(data)
        end = offset + len(content)
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            begin, stop = max(offset, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            got = content[begin - offset : stop - offset]
            at = slice(begin - sector * SECTOR, stop - sector * SECTOR)
            allowed = self._allowed(disk, sector, began)
            if not any(version.content[at] == got for version in allowed):
                wanted = " or ".join(describe(version.content) for version in allowed)
                raise Violation("read", disk, sector, f"reads {describe_part(got)}, not {wanted}")

    def was_ever(self, disk: int, sector: int, content: bytes) -> bool:
        """Whether that sector ever held this, by any of its versions or before them."""
        base = self._base[disk][sector * SECTOR : (sector + 1) * SECTOR]
        return content == base or content in self._by_content.get((disk, sector), {})

    def expected(self, disk: int, offset: int, length: int) -> bytes:
        """What a read issued now returns when nothing is in flight."""
        first, behind = offset // SECTOR, -(-(offset + length) // SECTOR)
        content = b"".join(self._newest(disk, sector) for sector in range(first, behind))
        return content[offset - first * SECTOR :][:length]

    def check_recovered(self, contents: Mapping[int, Buffer], at: float = NEVER) -> None:
        """All disks there are hold `contents` after a crash at time `at` and a recovery. Raises Violation."""
        candidates = self._candidates(contents, at)
        floors = {disk: self._floor(disk, at) for disk in self.sizes}
        # Content that occurs twice in a sector's history is taken for the older version, unless that one
        # is ruled out: the smallest set that explains what was found.
        found = {key: versions[0] for key, versions in candidates.items()}
        while True:
            broken = self._contradiction(found, floors, at)
            if broken is None:
                return
            key, promise, sentence = broken
            newer = candidates[key][candidates[key].index(found[key]) + 1 :]
            if not newer:
                raise Violation(promise, *key, sentence)
            found[key] = newer[0]

    def check_caches(self, caches: Mapping[int, int | None], at: float = NEVER) -> None:
        """After a crash at that time and a recovery, each disk has the cache `caches` says. Raises Violation."""
        for disk, found in caches.items():
            changes = [change for change in self._changes[disk] if change.began <= at]
            settled = max(i for i, change in enumerate(changes) if change.ended <= at and change.ended != NEVER)
            allowed = {change.cache for change in changes[settled:]}
            if found not in allowed:
                raise Violation("R9", disk, 0, f"has cache {found}, not one of {allowed}")

    def note_cache(self, disk: int, cache: int | None) -> None:
        """The disk has that cache from now on."""
        if cache is None or cache == GONE:
            self.note_durable(disk, self.now())
        self.caches[disk] = cache
        for piece in self._in_flight:
            if piece.disk == disk and piece.acknowledged == NEVER:
                piece.cache = None

    def settle(self, contents: Mapping[int, Buffer]) -> None:
        """The process died and the disks were recovered with `contents`: what is not in it must never come back.

        What is in it was perhaps not durable before, so older versions remain possible until a barrier.
        """
        now = self.now()
        for key, candidates in self._candidates(contents, NEVER).items():
            found = candidates[-1]
            if found.piece.acknowledged == NEVER:
                found.piece.acknowledged = now
            versions = self._versions[key]
            for version in versions[versions.index(found) + 1 :]:
                if version.died == NEVER:
                    version.died = now
                    version.piece.living -= 1
                    if not version.piece.living:
                        version.piece.died = now
        self._in_flight.clear()

    def prune(self) -> None:
        """Forget versions that no crash can bring back any more; states of the past cannot be judged then."""
        self._matches.clear()
        for (disk, sector), versions in self._versions.items():
            floor = self._floor(disk, NEVER)
            living = [v for v in versions if v.died == NEVER]
            solid = max((v.piece.began for v in living if v.piece.acknowledged < floor), default=-NEVER)
            self._versions[disk, sector] = kept_here = [v for v in living if v.piece.acknowledged >= solid]
            self._by_content[disk, sector] = by_content(kept_here)
        kept = {version.piece for versions in self._versions.values() for version in versions}
        self._pieces = [piece for piece in self._pieces if piece in kept]

    def _add_version(self, piece: Piece, sector: int, begin: int, end: int, data: bytes, offset: int) -> None:
        start = sector * SECTOR
        first, stop = max(begin, start), min(end, start + SECTOR)
        content = data[first - offset : stop - offset]
        if len(content) < SECTOR:
            old = self._newest(piece.disk, sector)
            content = old[: first - start] + content + old[stop - start :]
        self._matches.clear()
        if (piece.disk, sector) not in self._versions:
            self._versions[piece.disk, sector] = history = self._history(piece.disk, sector)
            self._by_content[piece.disk, sector] = by_content(history)
        version = Version(piece, content)
        self._versions[piece.disk, sector].append(version)
        self._by_content[piece.disk, sector].setdefault(content, []).append(version)
        piece.living += 1

    def _history(self, disk: int, sector: int) -> list[Version]:
        """The versions of a sector that can be read now, oldest first."""
        versions = self._versions.get((disk, sector))
        if versions is None:
            return [Version(_INITIAL, self._base[disk][sector * SECTOR : (sector + 1) * SECTOR])]
        return [version for version in versions if version.died == NEVER]

    def _newest(self, disk: int, sector: int) -> bytes:
        return self._history(disk, sector)[-1].content

    def _allowed(self, disk: int, sector: int, began: float) -> list[Version]:
        versions = self._history(disk, sector)
        solid = max(v.piece.began for v in versions if v.piece.acknowledged < began)
        return [v for v in versions if v.piece.acknowledged >= solid]

    def _floor(self, disk: int, at: float) -> float:
        return max((before for done, before in self._durable[disk] if done <= at), default=-NEVER)

    def _candidates(self, contents: Mapping[int, Buffer], at: float) -> dict[tuple[int, int], list[Version]]:
        """The versions, oldest first, whose content each written sector has; R2 where there is none."""
        found: dict[tuple[int, int], list[Version]] = {}
        for disk, content in contents.items():
            for key, holding in self._matching(disk, bytes(content)):
                # Version.alive, written out: the explorer spends much of its time here
                matching = [v for v in holding if v.piece.began <= at and (at < v.died or v.died == NEVER)]
                if not matching:
                    sector = key[1]
                    got = content[sector * SECTOR : (sector + 1) * SECTOR]
                    raise Violation("R2", disk, sector, f"holds {describe(bytes(got))}, which was never written there")
                found[key] = matching
        return found

    def _matching(self, disk: int, content: bytes) -> Matches:
        """`_candidates` of one disk, whenever its crash was. Many crashes leave the same content."""
        known = self._matches.get((disk, content))
        if known is None:
            self._check_untouched(disk, content)
            known = [
                (key, holding.get(content[key[1] * SECTOR : (key[1] + 1) * SECTOR], []))
                for key, holding in self._by_content.items()
                if key[0] == disk
            ]
            if len(self._matches) >= MOST_MATCHES:
                self._matches.clear()
            self._matches[disk, content] = known
        return known

    def _contradiction(
        self, found: Mapping[tuple[int, int], Version], floors: Mapping[int, float], at: float
    ) -> tuple[tuple[int, int], str, str] | None:
        """A sector that ought to hold a later version, if `found` is what the sectors hold."""
        seen = {version.piece for version in found.values()}
        cuts = self._cuts(seen, floors, at)
        for key, version in found.items():
            versions = self._versions[key]
            if version is versions[-1]:
                continue
            ended = _acknowledged(version.piece, at)
            if versions[-1].piece.began <= ended:
                continue
            # in the order in which they were issued, so no earlier one began behind its end
            for later in versions[versions.index(version) + 1 :]:
                piece = later.piece
                if piece.began > at:
                    break
                if piece.began <= ended or not later.alive(at):
                    continue
                done = _acknowledged(piece, at)
                holds = f"holds {describe(version.content)}, though"
                if done < floors[piece.disk]:
                    return key, "R1", f"{holds} {piece} is durable"
                if piece.cache is not None and done < cuts[piece.cache]:
                    return key, "R3", f"{holds} {piece} comes before another that was recovered"
                if piece.cache is not None and piece in seen:
                    return key, "R3", f"{holds} another sector of the same line comes from {piece}"
        return None

    def _check_untouched(self, disk: int, content: bytes) -> None:
        base = self._base[disk]
        for line in range(0, len(content), LINE):
            if content[line : line + LINE] == base[line : line + LINE]:
                continue
            for sector in range(line // SECTOR, min(line + LINE, len(content)) // SECTOR):
                at = slice(sector * SECTOR, (sector + 1) * SECTOR)
                if (disk, sector) not in self._versions and content[at] != base[at]:
                    raise Violation("R2", disk, sector, f"holds {describe(content[at])}, though it was not written")

    def _cuts(self, seen: set[Piece], floors: Mapping[int, float], at: float) -> dict[int, float]:
        """Per cache, the time before which everything acknowledged must have been recovered."""
        cuts: dict[int, float] = {}
        for piece in self._pieces:
            cache = piece.cache
            if cache is None or not piece.alive(at):
                continue
            required = piece in seen or _acknowledged(piece, at) < floors[piece.disk]
            cuts[cache] = max(cuts.get(cache, -NEVER), piece.began if required else -NEVER)
        return cuts


def by_content(versions: Iterable[Version]) -> dict[bytes, list[Version]]:
    """Versions of one sector by what they hold, each list oldest first."""
    found: dict[bytes, list[Version]] = {}
    for version in versions:
        found.setdefault(version.content, []).append(version)
    return found


def _acknowledged(piece: Piece, at: float) -> float:
    return piece.acknowledged if piece.acknowledged <= at else NEVER


def describe_part(content: bytes) -> str:
    """`describe` for what may be less than a sector."""
    return describe(content) if len(content) == SECTOR else f"{content[:16].hex()}..."
