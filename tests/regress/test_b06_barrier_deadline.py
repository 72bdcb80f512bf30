# SPDX-License-Identifier: GPL-2.0-or-later
"""B06: dm-lc armed the barrier deadline with an absolute time, so that it fired at once, or minutes late; lcfs waits for
company for at most barrier_deadline_ms after the first waiter came, whatever time it is."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine import Device
from tests.regress.support import IMAGE, LINE, MIB, Rig, lines, write

FLUSH = 0.010


async def timed_barrier(disk: Device, line: int) -> float:
    """Seconds that the barrier of one dirty line takes."""
    await write(disk, line * LINE, lines(disk.id, line, 1, 1))
    began = trio.current_time()
    await disk.flush()
    return trio.current_time() - began


async def crowd(disk: Device, count: int) -> None:
    """Barriers side by side: from now on as many are expected again."""
    async with trio.open_nursery() as nursery:
        for line in range(count):
            nursery.start_soon(timed_barrier, disk, line)


@pytest.mark.parametrize("uptime", [0, 3600, 86400 * 365])
@pytest.mark.parametrize("deadline_ms", [1, 3, 50, 1000])
async def test_company_is_waited_for_until_the_deadline(
    autojump_clock: trio.testing.MockClock, deadline_ms: int, uptime: int
) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        await manager.caches[1].set_tunable("barrier_deadline_ms", deadline_ms)
        rig.delays[IMAGE].flushes = FLUSH
        await trio.sleep(uptime)
        await crowd(disk, 8)
        # nobody comes besides this one: the deadline ends the wait, neither at once nor later
        assert await timed_barrier(disk, 20) == pytest.approx(FLUSH + deadline_ms / 1000, abs=1e-4)
        # and then nobody is expected any more
        assert await timed_barrier(disk, 21) == pytest.approx(FLUSH, abs=1e-4)


async def test_a_new_deadline_counts_for_the_next_barrier(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        rig.delays[IMAGE].flushes = FLUSH
        for deadline_ms in (1000, 1, 200):
            await manager.caches[1].set_tunable("barrier_deadline_ms", deadline_ms)
            await crowd(disk, 8)
            assert await timed_barrier(disk, 20) == pytest.approx(FLUSH + deadline_ms / 1000, abs=1e-4)
