# SPDX-License-Identifier: GPL-2.0-or-later
# belongs into tests/engine/test_migrate.py
import pytest
import trio.testing

from lcfs.engine.errors import Failed
from lcfs.engine.geometry import LINE
from lcfs.testing import Fault, Operation
from tests.engine.rig import Rig, page
from tests.engine.test_migrate import RUNNING, TWO_DISKS
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock


async def test_a_failing_disk_fills_its_share_and_not_the_whole_cache(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1 is degraded")
    async with Rig.running(disks=TWO_DISKS, tunables=RUNNING) as rig:
        rig.backings[1].add(Fault(Operation.WRITE, times=None))
        with pytest.raises(
            Failed, match=r"disk 1 is degraded \(disk1 cannot be written: .*\) and its share of the cache is full"
        ):
            for number in range(64):
                await rig.write(1, number * LINE, page(number))
        for number in range(100):
            await rig.write(2, number % 60 * LINE, page(number))
        assert await rig.read(2, 0, LINE) == page(60)
        rig.check_counts()
