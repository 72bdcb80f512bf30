# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that becomes longer while it is in use."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from lcfs.engine.errors import Cancelled, Invalid, Missing, NoSpace, NotPermitted, Unsuitable, WrongDisk
from lcfs.engine.file_store import FileStorage
from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.manager import Manager
from lcfs.engine.spec import DeviceSpec
from lcfs.testing import Effect, Fault, Operation, keep_all, lose_all
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.rig import page

Clock = trio.testing.MockClock
ONE = DeviceSpec("/one", id=1, size=DISK)
LOOSE = DeviceSpec("/loose", id=2, size=DISK, cache=0)
LONGER = DISK + 7 * LINE + SECTOR


async def sizes_after(bench: Bench, choose: object) -> tuple[int, int]:
    """Of disk 1 and of its backing, in a mount of what a loss of power leaves now."""
    crashed = Bench(bench.storage.crash(choose))  # type: ignore[arg-type]
    async with crashed.mount() as manager:
        assert manager.devices[1].state == "running"
        return manager.devices[1].size, crashed.storage.media["/one"].size


async def test_a_disk_grows_with_its_lines_where_they_are(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(ONE,)) as manager:
        disk = manager.devices[1]
        resized: list[int] = []
        manager.on_resize.append(lambda device: resized.append(device.size))
        await write(disk, 0, page(1))
        await disk.flush()
        await write(disk, 5 * LINE, page(2))
        await write(disk, DISK - SECTOR, b"e" * SECTOR)
        await manager.message(f"grow 1 {LONGER}")
        assert disk.size == LONGER == bench.storage.media["/one"].size
        assert resized == [LONGER]
        assert await read(disk, 0, LINE) == page(1)
        assert await read(disk, 5 * LINE, LINE) == page(2)
        assert await read(disk, DISK - SECTOR, LINE) == b"e" * SECTOR + bytes(LINE - SECTOR)
        await write(disk, LONGER - SECTOR - LINE, page(3) + b"E" * SECTOR)
        assert disk.nr_dirty_caches == manager.caches[1].ring.recount(1)
        await manager.caches[1].drop_caches()
        assert bench.storage.media["/one"].live.read(LONGER - SECTOR, SECTOR) == b"E" * SECTOR
        assert await sizes_after(bench, lose_all) == (LONGER, LONGER)
    async with bench.mount() as manager:
        assert await read(manager.devices[1], LONGER - SECTOR, LINE) == b"E" * SECTOR


async def test_a_last_line_of_some_sectors_becomes_a_whole_one(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image()
    odd = DISK + 3 * SECTOR
    async with bench.mount(devices=(DeviceSpec("/one", id=1, size=odd),)) as manager:
        disk = manager.devices[1]
        await write(disk, DISK, b"o" * 3 * SECTOR)
        await manager.grow(1, LONGER)
        assert await read(disk, DISK, LINE) == b"o" * 3 * SECTOR + bytes(5 * SECTOR)
        await write(disk, DISK + 3 * SECTOR, b"n" * SECTOR)
        assert await read(disk, DISK, LINE) == b"o" * 3 * SECTOR + b"n" * SECTOR + bytes(4 * SECTOR)
        await disk.flush()
        crashed = Bench(bench.storage.crash(lose_all))
    async with crashed.mount() as manager:
        assert await read(manager.devices[1], DISK, 4 * SECTOR) == b"o" * 3 * SECTOR + b"n" * SECTOR


async def test_without_a_size_it_takes_what_the_backing_has_by_now(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(LOOSE,)) as manager:
        await manager.message("grow 2")
        assert manager.devices[2].size == DISK
        bench.storage.media["/loose"].resize(LONGER + 100)
        await manager.message("GROW 2")
        assert manager.devices[2].size == LONGER
        await manager.message(f"grow 2 {LONGER}")
        await write(manager.devices[2], LONGER - LINE, page(1))
        assert bench.storage.media["/loose"].live.read(LONGER - LINE, LINE) == page(1)


async def test_what_is_refused_changes_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        for line, sentence in (
            (f"grow 1 {DISK - SECTOR}", f"disk 1 has {DISK} bytes and cannot shrink to {DISK - SECTOR}; give a larger size"),
            (f"grow 1 {DISK + 1}", "give a multiple of 512"),
            ("grow 1 17T", "at most 16 TiB"),
            ("grow", "say `grow ID"),
        ):
            with pytest.raises(Invalid, match=sentence):
                await manager.message(line)
        bench.storage.media["/one"].resize(DISK - LINE)
        with pytest.raises(WrongDisk, match="it has shrunk"):
            await manager.message("grow 1")
        bench.storage.media["/one"].resize(DISK)
        bench.fault("/one", Fault(Operation.GROW, error=errno.ENOSPC))
        with pytest.raises(NoSpace, match="no room to make /one longer"):
            await manager.grow(1, LONGER)
        assert manager.devices[1].size == DISK
    async with bench.mount(readonly=True) as manager:
        with pytest.raises(NotPermitted):
            await manager.grow(1, LONGER)
    bench.storage.media["/elsewhere"] = bench.storage.media.pop("/one")
    async with bench.mount() as manager:
        with pytest.raises(Missing, match="disk 1 is missing"):
            await manager.grow(1, LONGER)


async def test_requests_in_flight_are_finished_first_and_others_wait(autojump_clock: Clock) -> None:
    bench = Bench(slow={"/loose": 1.0})
    async with bench.mount(devices=(LOOSE,)) as manager:
        disk = manager.devices[2]
        ended: list[str] = []

        async def one(name: str, offset: int) -> None:
            assert await disk.write(offset, page(1)) == LINE
            ended.append(name)

        async def grow() -> None:
            await manager.grow(2, LONGER)
            ended.append("grown")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "before", 0)
            await trio.sleep(0.5)
            nursery.start_soon(grow)
            await trio.sleep(0.1)
            nursery.start_soon(one, "beyond the old end", LONGER - LINE)
        assert ended == ["before", "grown", "beyond the old end"]


async def test_called_off_while_it_waits_for_requests(autojump_clock: Clock) -> None:
    bench = Bench(slow={"/loose": 10.0})
    async with bench.mount(devices=(LOOSE,)) as manager, trio.open_nursery() as nursery:
        disk = manager.devices[2]
        nursery.start_soon(disk.write, 0, page(1))
        await trio.sleep(1)

        async def grow() -> None:
            with pytest.raises(Cancelled, match="disk 2 stays as it was"):
                await manager.message(f"grow 2 {LONGER}")

        nursery.start_soon(grow)
        await trio.sleep(1)
        await manager.message("cancel 2")
        await trio.sleep(1)
        assert disk.size == DISK
        await manager.message(f"grow 2 {LONGER}")
        assert disk.size == LONGER


async def test_a_loss_of_power_at_each_of_its_calls(autojump_clock: Clock) -> None:
    """The old size or the new one, and never a disk that is longer than its backing."""
    for operation, path in ((Operation.GROW, "/one"), (Operation.WRITE, "/ssd.img"), (Operation.FLUSH, "/ssd.img")):
        seen = set()
        for skip in range(3):
            bench = Bench()
            await bench.image()
            async with bench.mount(devices=(ONE,)) as manager, trio.open_nursery() as nursery:
                await manager.caches[1].set_tunable("update_interval", 0)
                await write(manager.devices[1], 0, page(1))
                await manager.devices[1].flush()
                fault = bench.fault(path, Fault(operation, Effect.HANG, skip=skip))
                nursery.start_soon(manager.grow, 1, LONGER)
                await trio.sleep(1)
                for choose in (lose_all, keep_all):
                    disk, backing = await sizes_after(bench, choose)
                    assert disk in (DISK, LONGER) and disk <= backing
                    seen.add((fault.met > 0, disk))
                fault.release()
        assert (True, DISK) in seen


async def test_a_commit_that_fails_leaves_the_old_size(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(ONE,)) as manager:
        disk = manager.devices[1]
        await write(disk, 3 * LINE, page(1))
        bench.fault("/ssd.img", Fault(Operation.WRITE, error=errno.ENOSPC, end=1 << 20))
        with pytest.raises(NoSpace):
            await manager.grow(1, LONGER)
        assert disk.size == DISK
        assert await read(disk, 3 * LINE, LINE) == page(1)
        assert await disk.read(DISK, LINE) == b""
        assert await sizes_after(bench, lose_all) == (DISK, LONGER)
        await manager.grow(1, LONGER)
        assert await sizes_after(bench, lose_all) == (LONGER, LONGER)


async def grown(manager: Manager, size: int | None) -> int:
    await manager.grow(1, size)
    return manager.devices[1].size


async def test_files_are_extended_without_taking_room(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"x" * DISK)
    storage = FileStorage()
    store = await storage.open(str(file))
    await store.grow(1 << 40)
    assert store.size == file.stat().st_size == 1 << 40
    assert file.stat().st_blocks * 512 <= DISK + LINE
    await store.grow(DISK)
    assert store.size == 1 << 40, "never shorter"
    os.truncate(file, 2 * DISK)
    await store.grow(None)
    assert store.size == 2 * DISK
    await store.close()


async def test_a_block_device_is_as_long_as_it_is(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        store = manager.devices[1].store
        assert store is not None

        async def grow(size: int | None) -> None:
            store.size = DISK

        monkeypatch.setattr(store, "grow", grow)
        with pytest.raises(Unsuitable, match=f"less than the {LONGER} asked for; make it larger first"):
            await manager.grow(1, LONGER)
        assert await grown(manager, None) == DISK
