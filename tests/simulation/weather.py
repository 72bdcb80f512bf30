# SPDX-License-Identifier: GPL-2.0-or-later
"""Trouble that comes and goes: calls to a file that fail, are short, lose data or hang, once, for hours, or until mended."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from lcfs.testing import Fault
from tests.faults.bench import IMAGES, MOUNTED
from tests.faults.storage import DONE, EIO, ENOSPC, HANG, LOSE, SHORT, SHORT_ENOSPC, FaultyStorage, Kind, Spot, Trouble

TROUBLES: dict[Kind, tuple[Trouble, ...]] = {
    Kind.READ: (EIO, SHORT, HANG),
    Kind.WRITE: (EIO, ENOSPC, SHORT, SHORT_ENOSPC, DONE, HANG),
    Kind.FLUSH: (EIO, LOSE, DONE, HANG),
}
DURATIONS = (0.05, 1.0, 30.0, 600.0, 20_000.0)
"""Seconds that a lasting trouble lasts."""


@attrs.frozen(eq=False)
class Storm:
    """One trouble under way."""

    spot: Spot
    fault: Fault


@attrs.define(eq=False)
class Weather:
    """What goes wrong, drawn from `rng`. `struck` are the files that anything was wrong with since the last `clear`."""

    storage: FaultyStorage
    rng: random.Random
    disks: tuple[int, ...]
    note: Callable[..., None]
    storms: list[Storm] = attrs.field(factory=list)
    struck: set[str] = attrs.field(factory=set)

    async def change(self, calm: float) -> None:
        """One trouble after another, `calm` seconds apart on average; ends only when cancelled."""
        while True:
            await trio.sleep(self.rng.expovariate(1 / calm))
            await self._storm()

    async def _storm(self) -> None:
        rng = self.rng
        kind = rng.choice((Kind.READ, Kind.WRITE, Kind.WRITE, Kind.FLUSH))
        # a cache that fails stays so until it is mounted again, so backings have most of the trouble
        images = rng.random() < 0.25
        path = IMAGES[rng.choice(MOUNTED)] if images else f"/disk{rng.choice(self.disks)}.img"
        once = rng.random() < 0.5
        spot = Spot(path, kind)
        fault = self.storage.spoil(spot, rng.choice(TROUBLES[kind]), skip=rng.randrange(3), times=1 if once else None)
        storm = Storm(spot, fault)
        self.storms.append(storm)
        self.struck.add(path)
        self.note("trouble:", storm.fault.effect.value, storm.fault.error, "once" if once else "lasting", spot)
        await trio.sleep(rng.choice(DURATIONS))
        self._end(storm)

    def _end(self, storm: Storm) -> None:
        storm.fault.release()
        self.note("over:", storm.spot)
        if storm in self.storms:
            self.storms.remove(storm)

    def clear(self) -> None:
        """Everything is mended at once."""
        for storm in list(self.storms):
            self._end(storm)
