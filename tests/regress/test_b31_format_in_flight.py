# SPDX-License-Identifier: GPL-2.0-or-later
"""B31: dm-lc's format freed its buffer while writes of it were under way, and returned on errors with I/O still in
flight; in lcfs nothing is in flight when a format ends, however it ends, and what it ends with is the old cache or the
new one."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine.formatting import format_image
from lcfs.testing import Effect, Operation
from tests.regress.support import LINE, LOG_START, MIB, Rig

OTHER = "/other.img"


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.FLUSH])
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.HANG])
async def test_nothing_is_in_flight_afterwards(
    autojump_clock: trio.testing.MockClock, operation: Operation, skip: int, effect: Effect
) -> None:
    rig = Rig()
    rig.storage.add(OTHER, 8 * MIB)
    store = await rig.storage.open(OTHER)
    rig.delays[OTHER].writes = 0.5
    rig.fault(OTHER, operation, effect, skip=skip)
    with trio.move_on_after(10) as scope:
        try:
            await format_image(store)
        except OSError:
            assert effect is Effect.ERROR
        else:
            pytest.fail("the format should have met the fault")
    assert scope.cancelled_caught == (effect is Effect.HANG)
    assert all(call.ended is not None for call in rig.log.calls)
    calls = len(rig.log.calls)
    await trio.sleep(60)
    assert len(rig.log.calls) == calls


async def test_a_format_writes_its_superblocks_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.storage.add(OTHER, 8 * MIB)
    async with rig.mounted({1: MIB}) as manager:
        rig.log.clear()
        await manager.message(f"format_cache_device {OTHER}")
        writes = rig.log.of(Operation.WRITE)
        assert {call.store for call in writes} == {OTHER}
        assert all(call.offset + call.length <= LOG_START for call in writes)
        assert sum(call.length for call in writes) < 64 * LINE
        assert rig.log.calls[-1].operation is Operation.FLUSH
        assert not rig.storage.is_open(OTHER)
