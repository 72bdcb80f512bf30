# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
import trio
import trio.testing

from lcfs.engine.cached_device import HUNG_AFTER, CachedDevice
from lcfs.engine.geometry import LINE
from lcfs.testing import MemoryStore

Clock = trio.testing.MockClock


def disk(size: int = 8 * LINE, *, missing: bool = False) -> CachedDevice:
    return CachedDevice(3, size, None if missing else MemoryStore.of_size(size))


@pytest.mark.parametrize(("size", "lines"), [(512, 1), (LINE, 1), (LINE + 512, 2), (16 << 40, 1 << 32)])
def test_the_last_line_may_be_part_of_one(size: int, lines: int) -> None:
    assert CachedDevice(1, size, None).nr_lines == lines


async def test_a_disk_that_keeps_up_neither_struggles_nor_is_stuck(autojump_clock: Clock) -> None:
    device = disk()
    assert not device.struggling
    assert not device.stuck


async def test_a_missing_disk_does_both(autojump_clock: Clock) -> None:
    device = disk(missing=True)
    assert device.struggling
    assert device.stuck


async def test_a_faulty_backing_is_tried_again_after_a_longer_while_each_time(autojump_clock: Clock) -> None:
    device = disk()
    waits = []
    for _ in range(8):
        device.mark_faulty("it refuses")
        assert device.struggling
        assert device.stuck
        begin = trio.current_time()
        await trio.sleep(device.retry_at - begin)
        waits.append(trio.current_time() - begin)
        assert not device.stuck
        assert device.struggling
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])
    device.mark_well()
    assert not device.struggling
    device.mark_faulty("again")
    assert device.retry_at - trio.current_time() == pytest.approx(1)


async def test_a_backing_at_one_step_for_long_is_late(autojump_clock: Clock) -> None:
    device = disk()
    device.late_at = trio.current_time() + HUNG_AFTER
    assert not device.late
    await trio.sleep(HUNG_AFTER)
    assert device.late
    assert device.struggling
    assert device.stuck
    device.late_at = float("inf")
    assert not device.struggling


async def test_being_well_again_leaves_what_the_operator_set(autojump_clock: Clock) -> None:
    device = disk()
    device.migrate_threshold = 5
    device.mark_faulty("it refuses")
    device.mark_well()
    assert device.migrate_threshold == 5
