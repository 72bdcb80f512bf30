# SPDX-License-Identifier: GPL-2.0-or-later
"""A mount that may fail: three caches, five disks, faulty files, the model beside it.

Disk 1 is the one that things are done with. Disk 2 shares its cache, disk 3 has a cache of its own, disks 4 and 7 have
none. `/other.img` is a cache that was left with dirty lines of its disk 6; nobody has mounted it.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from uuid import UUID

import attrs
import trio

from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.errors import Failed, LcfsError
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE, SECTOR, SUPERBLOCK_AREA
from lcfs.engine.manager import Manager, open_manager
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.engine.startup import Startup
from lcfs.testing import Choose, Medium, Model, SparseImage, Violation, keep_all, keep_random, lose_all
from lcfs.testing.audit import audit
from lcfs.testing.model import Write
from lcfs.testing.storage import MemoryStorage
from lcfs.testing.tags import tagged
from tests.faults.storage import FaultyStorage
from tests.faults.watch import watched_steps

IMAGES = {1: "/ssd1.img", 2: "/ssd2.img", 3: "/ssd3.img", 4: "/other.img"}
MOUNTED = (1, 2, 3)
DISKS = {1: 1, 2: 1, 3: 2, 4: 0, 6: 4, 7: 0}
"""Disk id -> cache id."""
LINES = 16
OTHER = 6
"""The disk of the cache that is not mounted: missing, until it is."""
SPARE = 7
"""A disk that nothing but the checks of the control tree uses."""
BLANK, OLD, NEW = "/blank.img", "/old.img", "/new.img"
"""A file of zeros that may be formatted; one that may become a disk; a name that is free."""
FRESH_IMAGE, FRESH_DISK = "/fresh.img", "/fresh.disk"
"""What a mount is asked to create."""
PATHS = [*IMAGES.values(), *(f"/disk{disk}.img" for disk in DISKS), BLANK, OLD, NEW, FRESH_IMAGE, FRESH_DISK]
BASE = 1 << 40
"""Number of the write that made what the disks hold at first."""

OP_PATIENCE = 200.0
"""Simulated seconds after which an operation counts as hung."""
OTHERS_PATIENCE = 20.0
"""Seconds that a request of a disk whose files are all well may take."""
STOP_PATIENCE = 300.0
"""Seconds that shutting down may take."""
SETTLE = 2.0
"""Seconds given to the daemons after an operation."""


@attrs.frozen
class Shape:
    """Of each cache image."""

    blocks_per_segment: int = 4
    nr_segments: int = 8

    def __str__(self) -> str:
        return f"{self.nr_segments} x {self.blocks_per_segment}"

    @property
    def roomy(self) -> bool:
        """Whether a disk that cannot be written back leaves the others room, however the ring was filled."""
        return self.nr_segments >= 8

    @property
    def image_bytes(self) -> int:
        """Bytes of an image."""
        return SUPERBLOCK_AREA + self.blocks_per_segment * self.nr_segments * LINE


@attrs.frozen
class DiskSettings:
    """Of a disk."""

    id: int
    name: str
    size: int
    path: str
    uuid: UUID | None
    """None for a disk that was made during the run: each run makes another."""
    cache_uuid: UUID | None
    migrate_threshold: int


@attrs.frozen
class Settings:
    """What management operations change and a mount remembers; R9 compares it."""

    disks: tuple[DiskSettings, ...]
    caches: Mapping[int, tuple[tuple[str, int], ...]]

    def agrees(self, other: Settings) -> bool:
        """The same disks, and the same of the caches that both know."""
        common = self.caches.keys() & other.caches.keys()
        return self.disks == other.disks and all(self.caches[number] == other.caches[number] for number in common)


class FaultModel(Model):
    """The oracle, told what became of writes that failed."""

    def note_failed(self, write: Write, content: bytes) -> None:
        """A write failed, and its range reads as `content` now: each sector is new for good, or old for good.

        Where a part of a piece was written again since, what is read does not tell, and both stay possible.
        """
        now = self.now()
        first = write.offset // SECTOR
        for piece in write.pieces:
            mine = [
                (sector, version, version is versions[-1])
                for (disk, sector), versions in self._versions.items()
                if disk == write.disk
                for version in versions
                if version.piece is piece and version.died > now
            ]
            if not all(newest for _, _, newest in mine):
                continue
            there = {
                sector: content[(sector - first) * SECTOR : (sector - first + 1) * SECTOR] == version.content
                for sector, version, _ in mine
            }
            for sector, version, _ in mine:
                if not there[sector]:
                    version.died = now
            if any(there.values()):
                piece.acknowledged = now

    def check_origins(self, contents: Mapping[int, bytes], at: float) -> None:
        """R2 alone: every sector holds something that was written to it. Raises Violation."""
        self._candidates(contents, at)


@attrs.frozen(eq=False)
class Start:
    """Where every case begins: media, all durable, and what the disks hold."""

    media: Mapping[str, Medium]
    contents: Mapping[int, bytes]


async def make_start(shape: Shape) -> Start:
    """Caches with clean lines, dirty lines, dirty parts of lines, left by a loss of power."""
    storage = MemoryStorage(yields=False)
    for number, path in IMAGES.items():
        storage.add(path, shape.image_bytes)
        image = await storage.open(path)
        await format_image(image, cache_id=number, blocks_per_segment=shape.blocks_per_segment)
        await image.close()
    for disk in DISKS:
        content = tagged(disk, 0, LINES * LINE, BASE)
        storage.media[f"/disk{disk}.img"] = Medium(SparseImage.of(content))
    storage.add(BLANK, 2 << 20)
    storage.media[OLD] = Medium(SparseImage.of(tagged(5, 0, LINES * LINE, BASE)))
    specs = tuple(DeviceSpec(f"/disk{disk}.img", id=disk, cache=cache) for disk, cache in DISKS.items())
    async with open_manager(MountSpec(_caches(IMAGES), specs, default_disk=False), storage) as manager:
        number = BASE
        for cache in manager.caches.values():
            await cache.set_tunable("update_interval", 0)
        for step in range(2):
            for disk, cache_id in DISKS.items():
                device, number = manager.devices[disk], number + 1
                if not cache_id:
                    continue
                if step == 0:
                    await device.write(8 * LINE, tagged(disk, 8 * LINE, 3 * LINE, number))
                    await manager.caches[cache_id].drop_caches()
                else:
                    await device.write(0, tagged(disk, 0, 2 * LINE, number))
                    await device.write(4 * LINE + SECTOR, tagged(disk, 4 * LINE + SECTOR, 2 * SECTOR, number))
                    await device.flush()
        contents = {disk: bytes(await device.read(0, device.size)) for disk, device in manager.devices.items()}
        left = storage.crash(lose_all)
    return Start(left.media, contents)


def _caches(numbers: Mapping[int, str]) -> tuple[CacheSpec, ...]:
    return tuple(CacheSpec(path, id=number) for number, path in numbers.items())


SPEC = MountSpec(_caches({number: IMAGES[number] for number in MOUNTED}), default_disk=False)
SPEC_THAT_CREATES = MountSpec(
    (*SPEC.caches, CacheSpec(FRESH_IMAGE, id=5, size=2 << 20)),
    (DeviceSpec(FRESH_DISK, id=8, size=LINES * LINE, cache=1),),
    default_disk=False,
)
SPEC_OF_ALL = MountSpec(_caches(IMAGES), default_disk=False)


@attrs.frozen
class Ending:
    """How something ended: `ok`, `error`, `hung` or `cancelled`."""

    how: str
    error: BaseException | None = None

    def __str__(self) -> str:
        return self.how if self.error is None else f"{self.how} ({self.error})"


def require_named(error: BaseException, doing: str) -> None:
    """Errors that reach a caller have an errno, and say something. Raises Violation."""
    if isinstance(error, LcfsError) and error.errno in errno.errorcode and str(error):
        return
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return
    raise Violation("errors", 0, 0, f"{doing} ended with {error!r}") from error


class CalledOff(Exception):
    """Mounting or unmounting was cancelled, from within."""


class Bench:
    """A mount on faulty files. `nursery` must outlive it; `end` takes it down, however it is."""

    def __init__(self, start: Start, nursery: trio.Nursery) -> None:
        self.model = FaultModel()
        for disk, content in start.contents.items():
            self.model.add_disk(disk, len(content), DISKS[disk] or None, content)
        self.storage = FaultyStorage({path: medium.crash(keep_all) for path, medium in start.media.items()})
        self.nursery = nursery
        self.spec = SPEC
        self.manager: Manager
        self.mounted = False
        self.rot = False
        """The image of cache 1 cannot be read: dirty lines may be lost (EIO), but never read wrong (R5)."""
        self.removed: set[int] = set()
        """Disks that were removed, or are being removed: their backing has everything."""
        self.unresolved: list[Write] = []
        """Writes that failed, of which it is not known yet what they did."""
        self.scope = trio.CancelScope()
        self._leave = trio.Event()
        self._ended = trio.Event()
        self._error: BaseException | None = None

    # Coming up and going down

    async def start(self) -> None:
        """Mount. Raises what mounting raises; cancelled, the mount is taken back."""
        started = trio.Event()
        self.scope, self._leave, self._ended, self._error = trio.CancelScope(), trio.Event(), trio.Event(), None
        self.nursery.start_soon(self._host, started)
        try:
            await started.wait()
        except BaseException:
            self.scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        if self._ended.is_set():
            self._raise()
        for disk in self.manager.devices.keys() - self.model.sizes.keys():
            self._add_to_model(disk)

    async def stop(self) -> None:
        """Unmount. Raises what that raises; cancelled, the rest of it is called off."""
        self._leave.set()
        try:
            await self._ended.wait()
        except BaseException:
            self.scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise
        self._raise()

    def require_alive(self) -> None:
        """The mount did not end by itself. Raises Violation."""
        if self.mounted and self._ended.is_set() and not self._leave.is_set():
            raise Violation("liveness", 0, 0, f"the mount died of {self._error!r}") from self._error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        if self.scope.cancelled_caught:
            raise CalledOff

    async def _host(self, started: trio.Event) -> None:
        leave, ended = self._leave, self._ended
        try:
            with self.scope:
                async with open_manager(self.spec, self.storage) as self.manager:
                    self.mounted = True
                    started.set()
                    await leave.wait()
        except BaseException as exc:
            self._error = exc
            if not isinstance(exc, Exception):
                raise
        finally:
            self.mounted = False
            ended.set()
            started.set()

    # Requests

    def device(self, disk: int) -> Device:
        """The disk."""
        return self.manager.devices[disk]

    async def write(self, disk: int, offset: int, length: int) -> None:
        """Write tagged data as a mount does it."""
        device, request = self.device(disk), self.model.begin_write(disk, offset, length)
        try:
            taken = device.write_nowait(offset, request.data)
            if taken < 0:
                taken = await device.write(offset, request.data)
        except (LcfsError, OSError):
            self.unresolved.append(request)
            raise
        if taken != len(request.data):
            raise Violation("write", disk, offset // SECTOR, f"took {taken} of {len(request.data)} bytes")
        request.acknowledge()

    async def read(self, disk: int, offset: int, length: int) -> bytes:
        """Read as a mount does it; compare."""
        device, began = self.device(disk), self.model.now()
        data = device.read_nowait(offset, length)
        content = bytes(await device.read(offset, length) if data is None else data)
        if len(content) != min(length, device.size - offset):
            raise Violation("read", disk, offset // SECTOR, f"gave {len(content)} of {length} bytes")
        self.model.check_read(disk, offset, content, began)
        return content

    async def barrier(self, disk: int) -> None:
        """Flush a disk."""
        barrier = self.model.begin_barrier(disk)
        await self.device(disk).flush()
        barrier.done()

    async def attach(self, disk: int, cache: int) -> None:
        """By message; the model is told."""
        await self._change(disk, cache, f"attach {disk} {cache}")

    async def detach(self, disk: int) -> None:
        """By message; the model is told."""
        await self._change(disk, None, f"detach {disk}")

    async def _change(self, disk: int, cache: int | None, message: str) -> None:
        before = self.device(disk).cache_id
        change = self.model.begin_change(disk, cache)
        try:
            await self.manager.message(message)
        except BaseException:
            if self.device(disk).cache_id != before:
                change.done()  # decided all the same; an error behind the decision says so
            raise
        change.done()

    async def grow(self, disk: int, size: int) -> None:
        """By message; the model is told before, since nothing is written beyond the end until it is there."""
        self.model.grow_disk(disk, size)
        await self.manager.message(f"grow {disk} {size}")

    async def remove(self, disk: int) -> None:
        """By message; the model is told."""
        self.removed.add(disk)
        if self.device(disk).cache_id:
            change = self.model.begin_change(disk, None)
            await self.manager.message(f"remove {disk}")
            change.done()
        else:
            barrier = self.model.begin_barrier(disk)
            await self.manager.message(f"remove {disk}")
            barrier.done()

    async def create(self, disk: int, path: str, cache: int, size: int | None = None) -> None:
        """By message; the model learns of the disk when it is there."""
        words = f" {size}" if size else ""
        at = f" cache={cache}" if cache else ""
        try:
            await self.manager.message(f"create {disk} {path}{words}{at}")
        finally:
            if disk in self.manager.devices and disk not in self.model.sizes:
                self._add_to_model(disk)

    def _add_to_model(self, disk: int) -> None:
        """A disk that was made; what its backing holds counts as durable."""
        device = self.device(disk)
        content = self.storage.media[device.path].live.read(0, device.size)
        self.model.add_disk(disk, device.size, device.cache_id or None, content)

    async def resolve(self) -> None:
        """Find out what failed writes did, where the disk can be read."""
        for request in list(self.unresolved):
            first, last = request.offset // SECTOR * SECTOR, -(-(request.offset + len(request.data)) // SECTOR) * SECTOR
            with contextlib.suppress(LcfsError, OSError), trio.move_on_after(OTHERS_PATIENCE):
                content = await self.device(request.disk).read(first, last - first)
                self.model.note_failed(request, bytes(content))
                self.unresolved.remove(request)

    # Looking at it

    def settings(self) -> Settings:
        """Of this moment."""
        return settings_of(self.manager)

    def files_of(self, disk: int) -> set[str]:
        """The files that requests of a disk depend on."""
        device = self.device(disk)
        return {device.path, *({device.cache.path} if device.cache is not None else ())}

    def audit(self) -> None:
        """R10, for every cache."""
        for cache in self.manager.caches.values():
            audit(cache)

    async def recover(self, choose: Choose, *, allowed: tuple[Settings, ...]) -> None:
        """Power is lost now: mount what is left on good files, all four caches, and judge. Raises Violation."""
        at = self.model.now()
        storage = MemoryStorage(self.storage.crash(choose).media, yields=False)
        async with doomed_mount(storage) as manager:
            contents: dict[int, bytes] = {}
            caches: dict[int, int | None] = {}
            for disk, size in self.model.sizes.items():
                if disk not in manager.devices and disk in self.removed:
                    contents[disk], caches[disk] = storage.media[f"/disk{disk}.img"].live.read(0, size), None
                    continue
                device = require_running(manager, disk)
                contents[disk], caches[disk] = await self._content(device), device.cache_id or None
            if self.rot:
                self.model.check_origins(contents, at)
            else:
                self.model.check_recovered(contents, at)
            self.model.check_caches(caches, at)
            for cache in manager.caches.values():
                if cache.state != "running" and not (self.rot and "damaged" in cache.state):
                    raise Violation("state", 0, 0, f"cache {cache.id} is {cache.state} after recovery")
                audit(cache)
            found = settings_of(manager)
            if not any(found.agrees(settings) for settings in allowed):
                raise Violation("R9", 0, 0, f"found {found}, not one of {allowed}")

    async def _content(self, device: Device) -> bytes:
        """All of a disk; of lines that rot has taken, what they ought to hold."""
        if not self.rot:
            return bytes(await device.read(0, device.size))
        lines: list[bytes] = []
        for start in range(0, device.size, LINE):
            try:
                lines.append(bytes(await device.read(start, min(LINE, device.size - start))))
            except Failed:
                lines.append(self.model.expected(device.id, start, min(LINE, device.size - start)))
        return b"".join(lines)


@asynccontextmanager
async def doomed_mount(storage: MemoryStorage) -> AsyncIterator[Manager]:
    """All four caches, by a process that dies when the block is left: stopping is swept elsewhere, and takes its time."""
    problem: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            manager = Manager(storage, nursery)
            async with AsyncExitStack() as undo:
                startup = Startup(storage, lambda _: None, False, undo)
                await startup.run(SPEC_OF_ALL)
                await manager.start(startup)
                undo.pop_all()
            yield manager
        except Exception as exc:
            problem = exc
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


def require_running(manager: Manager, disk: int) -> Device:
    """The disk, which must be there and well. Raises Violation."""
    device = manager.devices.get(disk)
    if device is None or device.state != "running":
        raise Violation("state", disk, 0, "is not there" if device is None else f"is {device.state}")
    return device


def settings_of(manager: Manager) -> Settings:
    """Of a mount; the disk that the checks use is left out, and who has modulated allow_migrate."""
    disks = tuple(
        DiskSettings(d.id, d.name, d.size, d.path, d.uuid if d.id in DISKS else None, d.cache_uuid, d.migrate_threshold)
        for d in sorted(manager.devices.values(), key=lambda d: d.id)
        if d.id != SPARE
    )
    return Settings(disks, {cache.id: _tunables(cache) for cache in manager.caches.values()})


def _tunables(cache: Cache) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for name, value in cache.tunables.items() if name != "allow_migrate")


@contextmanager
def within(seconds: float, doing: str, disk: int = 0) -> Iterator[None]:
    """Raises Violation when that takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise Violation("R6", disk, 0, f"{doing} did not end within {seconds:.0f} s")


OnStep = Callable[["Attempt", int], None]


@asynccontextmanager
async def attempted(
    bench: Bench, act: Callable[[Bench], Awaitable[None]], on_step: OnStep = lambda attempt, step: None
) -> AsyncIterator[Attempt]:
    """Try an operation in a task of its own; leaving calls it off if it still runs.

    `on_step` is called after each step of any task while it is under way, with the number of the step.
    """
    attempt = Attempt()

    def count(task: trio.lowlevel.Task) -> None:
        if attempt.started and not attempt.ended.is_set():
            on_step(attempt, attempt.steps)
            attempt.steps += 1

    async with watched_steps(count), trio.open_nursery() as nursery:
        nursery.start_soon(attempt.run, bench, act)
        yield attempt
        attempt.scope.cancel()
        with within(OP_PATIENCE, "an operation that was called off"):
            await attempt.ended.wait()


class Attempt:
    """An operation under way."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.started = False
        self.ended = trio.Event()
        self.ending = Ending("hung")
        self.steps = 0

    async def run(self, bench: Bench, act: Callable[[Bench], Awaitable[None]]) -> None:
        """Carry it out and note how it ends."""
        self.started = True
        try:
            with self.scope:
                await act(bench)
            self.ending = Ending("cancelled" if self.scope.cancelled_caught else "ok")
        except Violation:
            raise
        except CalledOff:
            self.ending = Ending("cancelled")
        except Exception as exc:
            self.ending = Ending("error", exc)
            require_named(exc, "an operation")
        finally:
            self.ended.set()

    async def wait(self, seconds: float) -> Ending:
        """How it ended; `hung` when it has not by then."""
        with trio.move_on_after(seconds):
            await self.ended.wait()
        return self.ending


def random_choice(seed: int) -> Choose:
    """What survives, drawn from a seed."""
    return keep_random(random.Random(seed))
