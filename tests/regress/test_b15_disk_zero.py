# SPDX-License-Identifier: GPL-2.0-or-later
"""B15: dm-lc took 0 for a disk id and then never flushed that disk; lcfs takes ids 1 to 254 and no other, and treats them
all alike."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from lcfs.engine import Invalid, LcfsError
from lcfs.testing import lose_all
from tests.regress.support import LINE, MIB, Rig, backing, lines, recovered, write


@pytest.mark.parametrize("number", ["0", "00", "255", "256", "-1", "+1", "1.0", "0x1", "abc", "18446744073709551616"])
async def test_other_ids_are_refused(autojump_clock: trio.testing.MockClock, number: str) -> None:
    rig = Rig()
    async with rig.mounted({7: MIB}) as manager:
        for line in (f"create {number} /new.img 1M", f"attach {number} 1", f"detach {number}", f"remove {number}"):
            with pytest.raises(LcfsError) as refusal:
                await manager.message(line)
            assert refusal.value.errno in (errno.EINVAL, errno.ERANGE), line
        assert list(manager.devices) == [7]
        assert not rig.storage.exists("/new.img")


@pytest.mark.parametrize("number", [0, -1, 255])
async def test_other_ids_are_refused_at_mount(autojump_clock: trio.testing.MockClock, number: int) -> None:
    rig = Rig()
    with pytest.raises(Invalid, match=f"disk id {number} is not possible"):
        async with rig.mounted({number: MIB}):
            pass
    assert not rig.storage.media


async def test_the_first_and_last_id_are_flushed(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB, 254: MIB}) as manager:
        for number, disk in manager.devices.items():
            await write(disk, 0, lines(number, 0, 1, 1))
        await manager.caches[1].drop_caches()
        rig = rig.crash(lose_all)
    for number in (1, 254):
        assert rig.medium(backing(number)).durable.read(0, LINE) == lines(number, 0, 1, 1)
    assert {number: content[:LINE] for number, content in (await recovered(rig)).items()} == {
        1: lines(1, 0, 1, 1),
        254: lines(254, 0, 1, 1),
    }
