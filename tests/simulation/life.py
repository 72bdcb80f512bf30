# SPDX-License-Identifier: GPL-2.0-or-later
"""Days in the life of a mount: users, an operator, trouble with its files, crashes; the oracle looks on.

A life is a number of stretches. In a stretch a mount comes up, users of each disk write, read and flush, an operator changes
things, and the weather (weather.py) makes calls to the files fail. Then everything is mended, what still waits must end,
counters are audited, and the mount is stopped, killed, or its power cut. The next one is judged by what it finds.

Everything is drawn from a seed and runs on a mock clock with a deterministic scheduler, so the same seed is the same life:
`trace` is a hash of everything that was done and how it ended.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from unittest.mock import patch

import attrs
import trio

from lcfs.engine.errors import LcfsError
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.request_cost import RequestCost
from lcfs.testing import Violation, keep_all, keep_random, lose_all
from lcfs.testing.stepper import make_deterministic
from lcfs.testing.world import DEAR
from tests.faults.bench import DISKS, LINES, MOUNTED, OTHER, SPARE, Bench, Shape, make_start, require_named, within
from tests.faults.storage import FaultyStorage
from tests.faults.watch import no_spinning
from tests.simulation.weather import Weather

SHAPES = (Shape(8, 8), Shape(16, 6), Shape(4, 12))
ACTS = ("drop", "batch", "force", "interval", "commit", "detach", "attach", "suspend", "rename")
USED = tuple(disk for disk in DISKS if disk not in (OTHER, SPARE))
"""Disks with users."""
STRETCH = 40_000.0
"""Seconds of a stretch, on average."""
PAUSE = 4000.0
"""Seconds between two requests of a user, on average; a third of them come at once."""
MOST_STEPS = 5_000_000
TOLD = 80
"""How much of a life is told when it ends badly."""
AFTERMATH = 400.0
"""Seconds in which what waits for files that are well again has ended."""
NEIGHBOUR = 400.0
"""Seconds in which requests of a disk have ended whose own files are well, whatever becomes of its neighbours."""


@attrs.define(eq=False)
class Life:
    """One run. `operations` counts requests and acts, `days` is simulated time, `trace` a hash of all that happened."""

    seed: int
    stretches: int = 8
    operations: int = 0
    refused: int = 0
    crashes: int = 0
    days: float = 0.0
    _hash: hashlib._Hash = attrs.field(factory=hashlib.sha256)
    _rng: random.Random = attrs.field(init=False)
    _began: float = 0.0
    _weather: Weather = attrs.field(init=False)
    told: deque[str] = attrs.field(factory=lambda: deque(maxlen=TOLD))
    """The last things that happened."""

    def __attrs_post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    @property
    def trace(self) -> str:
        """What happened, as a hash."""
        return self._hash.hexdigest()

    def _note(self, *what: object) -> None:
        told = f"{trio.current_time() - self._began:14.6f} {' '.join(map(str, what))}"
        self._hash.update(told.encode())
        self.told.append(told)

    async def live(self) -> None:
        """All of it. Raises Violation."""
        make_deterministic(self.seed)
        with patch.object(RequestCost, "least", DEAR if self.seed % 2 else 0):
            await self._live()

    async def _live(self) -> None:
        self._began = trio.current_time()
        shape = self._rng.choice(SHAPES)
        start = await make_start(shape)
        async with no_spinning(MOST_STEPS), trio.open_nursery() as nursery:
            bench = Bench(start, nursery)
            await self._mount(bench)
            for _ in range(self.stretches):
                await self._stretch(bench)
                await self._leave(bench)
            nursery.cancel_scope.cancel()
        self.days = (trio.current_time() - self._began) / 86400

    # A stretch

    async def _stretch(self, bench: Bench) -> None:
        self._weather = weather = Weather(bench.storage, self._rng, USED, self._note)
        fair = self._rng.random() < 0.25
        with trio.move_on_after(STRETCH * (0.2 + 1.6 * self._rng.random())):
            async with trio.open_nursery() as nursery:
                if not fair:
                    nursery.start_soon(weather.change, self._rng.choice((300.0, 3000.0)))
                for disk in USED:
                    nursery.start_soon(self._user, bench, weather, disk, fair)
                    nursery.start_soon(self._reader, bench, weather, disk)
                nursery.start_soon(self._operator, bench, weather)
        weather.clear()
        bench.require_alive()
        await self._calm(bench, weather)

    async def _pause(self) -> None:
        if self._rng.random() < 0.33:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self._rng.expovariate(1 / PAUSE))

    async def _user(self, bench: Bench, weather: Weather, disk: int, fair: bool) -> None:
        """Writes and flushes, one after the other."""
        rng = self._rng
        # parts of sectors only in fair weather: of a mixture with a write that failed the oracle cannot say what is right
        starts = (0, 0, SECTOR, 3 * SECTOR, 100) if fair else (0, 0, SECTOR, 3 * SECTOR)
        lengths = (LINE, LINE, 2 * LINE, SECTOR, 8 * LINE, 5000) if fair else (LINE, LINE, 2 * LINE, SECTOR, 8 * LINE)
        while True:
            await self._pause()
            for _ in range(rng.choice((1, 1, 2, 8, 20))):
                if rng.random() < 0.25:
                    await self._ask(bench, weather, disk, "barrier", 0, 0)
                else:
                    line = rng.randrange(LINES)
                    offset = line * LINE + rng.choice(starts)
                    length = rng.choice(lengths)
                    await self._ask(bench, weather, disk, "write", offset, min(length, LINES * LINE - offset))

    async def _reader(self, bench: Bench, weather: Weather, disk: int) -> None:
        while True:
            await self._pause()
            line = self._rng.randrange(LINES)
            await self._ask(bench, weather, disk, "read", line * LINE, self._rng.randint(1, LINES - line) * LINE)

    async def _ask(self, bench: Bench, weather: Weather, disk: int, what: str, offset: int, length: int) -> None:
        """A request. It ends well, or with an error that its files account for, or waits for files that are in trouble."""
        self.operations += 1
        with trio.move_on_after(NEIGHBOUR * self._rng.choice((1, 3))) as scope:
            try:
                if what == "barrier":
                    await bench.barrier(disk)
                elif what == "write":
                    await bench.write(disk, offset, length)
                else:
                    await bench.read(disk, offset, length)
            except Violation:
                raise
            except Exception as exc:
                require_named(exc, what)
                self._require_reason(bench, weather, disk, f"{what} failed: {exc}")
                self.refused += 1
                self._note(disk, what, offset, length, type(exc).__name__)
                return
        if scope.cancelled_caught:
            self._require_reason(bench, weather, disk, f"{what} did not end")
            # a write that was called off stays open in the oracle: it may have been done, in part
            self._note(disk, what, "hangs")
        else:
            self._note(disk, what, offset, length)

    def _require_reason(self, bench: Bench, weather: Weather, disk: int, what: str) -> None:
        """Raises Violation unless a file that the disk depends on was in trouble since the mount came up."""
        device = bench.device(disk)
        files = bench.files_of(disk)
        if device.cache is not None:
            # a full ring keeps the lines of a neighbour in trouble: writers may be told so (ENOSPC), readers not
            files |= {d.path for d in bench.manager.devices.values() if d.cache is device.cache}
        if not files & weather.struck and not device.suspended:
            raise Violation("R6", disk, 0, f"{what}, though all its files were well")

    async def _operator(self, bench: Bench, weather: Weather) -> None:
        """Changes things, now and then."""
        rng = self._rng
        while True:
            await trio.sleep(rng.expovariate(1 / 4000.0))
            self.operations += 1
            act = rng.randrange(len(ACTS))
            number, disk = rng.choice(MOUNTED), rng.choice(USED)
            cache = bench.manager.caches[number]
            self._note("operator", ACTS[act], "cache", number, "disk", disk)
            with trio.move_on_after(NEIGHBOUR):
                try:
                    if act == 0:
                        await cache.drop_caches()
                    elif act == 1:
                        await cache.set_tunable("nr_max_batched_migration", rng.choice((1, 2, 32)))
                    elif act == 2:
                        await cache.set_tunable("force_migrate", rng.randrange(2))
                    elif act == 3:
                        await cache.set_tunable("update_interval", rng.choice((0, 1, 60)))
                    elif act == 4:
                        await cache.commit_super_block()
                    elif act == 5 and bench.device(disk).cache_id:
                        await bench.detach(disk)
                    elif act == 6 and not bench.device(disk).cache_id:
                        await bench.attach(disk, rng.choice(MOUNTED))
                    elif act == 7:
                        await bench.manager.message(f"suspend {disk} noflush")
                        await trio.sleep(rng.choice((0.0, 20.0)))
                        await bench.manager.message(f"resume {disk}")
                    else:
                        await bench.manager.set_device_name(bench.device(disk), f"n{rng.randrange(100)}")
                except Violation:
                    raise
                except Exception as exc:
                    require_named(exc, "an act of the operator")
                    self._note("refused:", exc)
                    self.refused += 1

    # Its end

    async def _calm(self, bench: Bench, weather: Weather) -> None:
        """All files are well again: requests work, or a cache says that it has failed. The books are right."""
        for device in bench.manager.devices.values():
            device.resume()
        await trio.sleep(AFTERMATH)
        await bench.resolve()
        for disk in USED:
            device = bench.device(disk)
            failed = "failed" in device.state
            with within(AFTERMATH, f"a barrier of disk {disk}, whose files are well again,", disk):
                try:
                    await bench.read(disk, 0, LINES * LINE)
                    await bench.barrier(disk)
                except LcfsError as exc:
                    if not failed:
                        raise Violation("R6", disk, 0, f"its files are well again, and it says {exc}") from exc
                else:
                    if failed and device.cache is not None:
                        raise Violation("R5", disk, 0, "a cache that has failed serves a barrier")
        if not weather.struck:
            for number in MOUNTED:
                if bench.manager.caches[number].state != "running":
                    raise Violation("state", 0, 0, f"cache {number} is not running, though nothing was wrong")
        for number in MOUNTED:
            if not bench.manager.caches[number].failed:
                bench.audit()

    async def _leave(self, bench: Bench) -> None:
        """Stop, kill or crash; and the next mount finds what the oracle allows."""
        rng = self._rng
        how = rng.choice(("stop", "kill", "power", "power"))
        self._note("leave", how)
        if how == "stop":
            try:
                await bench.stop()
            except LcfsError as exc:
                if not self._weather.struck:
                    raise
                self._note("not stopped cleanly:", exc)
            left = bench.storage.crash(keep_all)
        else:
            choose = keep_all if how == "kill" else rng.choice((lose_all, keep_random(random.Random(rng.getrandbits(64)))))
            left = bench.storage.crash(choose)
            bench.scope.cancel()
            await trio.lowlevel.checkpoint()
            await trio.sleep(1)
        self.crashes += how != "stop"
        bench.storage = FaultyStorage(left.media)
        bench.unresolved.clear()
        await self._mount(bench)

    async def _mount(self, bench: Bench) -> None:
        await bench.start()
        for disk in USED:
            if disk not in bench.manager.devices:
                raise Violation("R9", disk, 0, "is gone")
        contents = {disk: bytes(await bench.device(disk).read(0, LINES * LINE)) for disk in USED}
        bench.model.check_recovered(contents)
        bench.model.check_caches({disk: bench.device(disk).cache_id or None for disk in USED})
        for disk in USED:
            if bench.device(disk).state != "running":
                raise Violation("state", disk, 0, f"is {bench.device(disk).state} after a mount on good files")
        bench.audit()
        bench.model.settle(contents)
        for disk in USED:
            # a change that failed may have been made all the same; from now on it is known
            cache = bench.device(disk).cache_id or None
            if cache != bench.model.caches[disk]:
                bench.model.begin_change(disk, cache).done()
        bench.model.prune()
        self._note("mounted", *(hashlib.sha256(content).hexdigest() for content in contents.values()))
