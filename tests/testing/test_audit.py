# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit sees every kind of book-keeping gone wrong."""

from collections.abc import Callable

import pytest

from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.testing import Violation
from lcfs.testing.world import Setup, World, make_media


def uncounted(cache: Cache, device: Device) -> None:
    device.nr_dirty_caches += 1


def shared(cache: Cache, device: Device) -> None:
    device.table.index[5] = device.table.index[0]


def foreign(cache: Cache, device: Device) -> None:
    cache.states.device[device.table.index[0]] = 2


def elsewhere(cache: Cache, device: Device) -> None:
    cache.states.line[device.table.index[0]] = 9


def empty(cache: Cache, device: Device) -> None:
    cache.states.valid[device.table.index[0]] = 0


def dirty_not_valid(cache: Cache, device: Device) -> None:
    cache.states.valid[device.table.index[0]] = 1


def orphaned(cache: Cache, device: Device) -> None:
    device.table.index[0] = 0


def given_up(cache: Cache, device: Device) -> None:
    cache.ring.tail = cache.ring.segment_id + 1


def uncounted_write(cache: Cache, device: Device) -> None:
    cache.stats.counters[1] += 1


def uncounted_read(cache: Cache, device: Device) -> None:
    cache.stats.counters[2] += 1


@pytest.mark.parametrize(
    "spoil",
    [
        uncounted,
        shared,
        foreign,
        elsewhere,
        empty,
        dirty_not_valid,
        orphaned,
        given_up,
        uncounted_write,
        uncounted_read,
    ],
)
async def test_what_was_spoilt_is_found(spoil: Callable[[Cache, Device], None]) -> None:
    setup = Setup()
    async with World(await make_media(setup), setup.model()) as world:
        await world.start(doomed=True)
        await world.write(1, 0, 4096)
        await world.check()
        spoil(world.manager.caches[1], world.device(1))
        with pytest.raises(Violation, match="R10"):
            world.audit()
