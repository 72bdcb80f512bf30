# SPDX-License-Identifier: GPL-2.0-or-later
"""B28: Ctrl-C made dm-lc's lc-detach go on and detach the disk with dirty lines behind; in lcfs a detach that is called
off leaves the disk attached, and one that is not has left no dirty line, at whatever moment it happens."""

from __future__ import annotations

import signal
import time

import pytest
import trio
import trio.testing

from lcfs.engine import Cancelled, Manager
from lcfs.testing import Effect, Operation
from tests.mount.harness import Lcfs
from tests.regress.support import LINE, MIB, Rig, backing, lines, on_backing, read, write


async def test_called_off_it_stays_attached(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    outcomes: list[str] = []

    async def detach(manager: Manager) -> None:
        try:
            await manager.message("detach 1")
            outcomes.append("detached")
        except Cancelled:
            outcomes.append("called off")

    async with rig.mounted({1: MIB}) as manager, trio.open_nursery() as nursery:
        disk = manager.devices[1]
        await write(disk, 0, lines(1, 0, 5, 1))
        hung = rig.fault(backing(1), Operation.WRITE, Effect.HANG)
        nursery.start_soon(detach, manager)
        await trio.testing.wait_all_tasks_blocked()
        assert hung.met == 1
        await manager.message("cancel 1")
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == ["called off"]
        assert (disk.cache_id, disk.nr_dirty_caches) == (1, 5)
        with trio.fail_after(1):
            assert await read(disk, 0, 5 * LINE) == lines(1, 0, 5, 1)
            await write(disk, LINE, lines(1, 1, 1, 2))
            await disk.flush()
        hung.release()
        await detach(manager)
        assert (outcomes[1:], disk.cache_id, disk.nr_dirty_caches) == (["detached"], 0, 0)
    assert on_backing(rig, 1)[: 5 * LINE] == lines(1, 0, 1, 1) + lines(1, 1, 1, 2) + lines(1, 2, 3, 1)


@pytest.mark.parametrize("after", [step / 20 for step in range(30)])
async def test_called_off_at_any_moment(autojump_clock: trio.testing.MockClock, after: float) -> None:
    rig = Rig()
    wanted = lines(1, 0, 5, 1)
    async with rig.mounted({1: MIB}) as manager:
        disk = manager.devices[1]
        for delays in rig.delays.values():
            delays.writes = delays.flushes = 0.1
        await write(disk, 0, wanted)
        with trio.move_on_after(after):
            await manager.message("detach 1")
        if disk.cache_id == 0:
            assert disk.nr_dirty_caches == 0
            assert on_backing(rig, 1)[: len(wanted)] == wanted
        else:
            assert disk.nr_dirty_caches == manager.caches[1].ring.recount(1)
        assert await read(disk, 0, len(wanted)) == wanted
        await write(disk, 0, lines(1, 0, 1, 2))
        await disk.flush()
        if disk.cache_id:
            await manager.message("detach 1")
    assert on_backing(rig, 1)[: len(wanted)] == lines(1, 0, 1, 2) + wanted[LINE:]


def test_ctrl_c_on_the_command(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "d.img,size=64M")
    content = bytearray(4000 * LINE)
    for round, patience in enumerate((0.0, 0.1, 0.2, 0.3, 0.4, 0.5)):
        with open(mnt / "devices/1", "r+b", buffering=0) as disk:
            for line in range(round % 2, 4000, 2):
                content[line * LINE : (line + 1) * LINE] = bytes([1 + round]) * LINE
            disk.write(content)
        child = lcfs.start("device", "detach", "-m", "mnt", "1")
        time.sleep(patience)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        if lcfs.read("block/1/cache_id") == "0":
            assert lcfs.read("block/1/nr_dirty_caches") == "0"
            assert (lcfs.directory / "d.img").read_bytes()[: len(content)] == content
            lcfs.run("device", "attach", "-m", "mnt", "1", "1")
        else:
            assert child.returncode != 0
        assert (mnt / "devices/1").read_bytes()[: len(content)] == content
