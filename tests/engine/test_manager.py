# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be done with caches and disks while they are mounted: each time the old state or the new one."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from lcfs.engine.block_store import Label
from lcfs.engine.errors import (
    AlreadyThere,
    Cancelled,
    Damaged,
    Failed,
    InUse,
    Invalid,
    LcfsError,
    Missing,
    NoSpace,
    NoSuchThing,
    NotACacheImage,
    NotPermitted,
    Unsuitable,
)
from lcfs.engine.geometry import LINE
from lcfs.engine.manager import Manager
from lcfs.engine.spec import DeviceSpec
from lcfs.testing import Effect, Fault, Operation, lose_all
from tests.engine.bench import DISK, MIB, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
ONE = DeviceSpec("/one", id=1, size=DISK)
LOOSE = DeviceSpec("/loose", id=2, size=DISK, cache=0)


def tables_of(manager: Manager) -> dict[int, tuple[str, str, int, int]]:
    """What the mount says of its disks: path, name, size, cache."""
    return {disk.id: (disk.path, disk.name, disk.size, disk.cache_id) for disk in manager.devices.values()}


async def after_a_crash(bench: Bench, *caches: str) -> dict[int, tuple[str, str, int, int]]:
    """The same, of a mount after the power failed now and lost everything that was not flushed."""
    crashed = Bench(bench.storage.crash(lose_all))
    async with crashed.mount(*caches) as manager:
        return tables_of(manager)


# Finding things


async def test_unknown_and_impossible_ids(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        assert manager.cache(1) is manager.caches[1]
        assert manager.device(1) is manager.devices[1]
        with pytest.raises(NoSuchThing, match="there is no cache 2; there is 1") as caught:
            manager.cache(2)
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(NoSuchThing, match="there is no disk 9; there is 1"):
            manager.device(9)
        for number in (0, 255, -1):
            with pytest.raises(Invalid, match=f"disk id {number} is not possible"):
                manager.device(number)
            with pytest.raises(Invalid, match=f"cache id {number} is not possible"):
                manager.cache(number)


async def test_the_cursor(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        assert manager.cursor == 0
        with pytest.raises(Invalid, match="the cursor is on 0, which is no cache here; use switch_to ID first"):
            manager.current_cache()
        assert "sizeof struct" in manager.status_text()
        manager.cursor = 1
        assert manager.current_cache() is manager.caches[1]
        assert manager.status_text().startswith("\ncurrent cache_id_ptr: 1\nstatic RAM(approx.): ")
        assert manager.status_text().endswith("1 1 1 1 0\n")
        manager.cursor = 200
        assert manager.status_text() == ""


async def test_a_refusal_is_kept_for_whoever_asks(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount() as manager:
        manager.refuse("no; do something else")
        assert manager.last_refusal == "no; do something else"


# Create


async def test_a_new_disk_is_there_at_once_and_after_a_crash(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount() as manager:
        changes: list[int] = []
        manager.on_change.append(lambda: changes.append(len(manager.devices)))
        await manager.create(7, "/seven", DISK, 1, "seven")
        await manager.create(3, "/three", DISK, 0, None)
        assert tables_of(manager) == {3: ("/three", "disk3", DISK, 0), 7: ("/seven", "seven", DISK, 1)}
        assert list(manager.devices) == [3, 7]
        assert changes == [1, 2]
        await write(manager.devices[7], 0, page(1))
        await manager.devices[7].flush()
        assert await after_a_crash(bench) == tables_of(manager)


async def test_lines_of_a_disk_that_had_the_id_before_are_dead(autojump_clock: Clock) -> None:
    """B23: the id is used again, for another disk, while old records of it are still in the log."""
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        await manager.remove(1)
        await manager.create(1, "/other", DISK, 1, None)
        after = Bench(bench.storage.crash(lose_all))
    async with after.mount() as manager:
        assert manager.devices[1].path == "/other"
        assert await read(manager.devices[1], 0, LINE) == bytes(LINE)
        assert manager.caches[1].nr_dirty_caches == 0


async def test_a_new_disk_on_an_existing_file_keeps_its_content(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.storage.add("/old", DISK).live.write(0, page(4))
    async with bench.mount() as manager:
        await manager.create(1, "/old", None, 1, None)
        assert await read(manager.devices[1], 0, LINE) == page(4)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((1, "/new", DISK, 1, None), AlreadyThere, r"disk 1 exists \(/one\); take another id"),
        ((5, "/one", None, 1, None), AlreadyThere, "/one is disk 1; take another backing"),
        ((5, "/x/../one", None, 0, None), AlreadyThere, "/one is disk 1"),
        ((5, "/ssd.img", None, 0, None), AlreadyThere, "/ssd.img is the image of cache 1; take another backing"),
        ((5, "/copy", None, 0, None), AlreadyThere, "/copy carries the UUID of disk 1; it is that disk, or a copy of it"),
        ((5, "/new", DISK, 2, None), NoSuchThing, "there is no cache 2"),
        ((0, "/new", DISK, 0, None), Invalid, "disk id 0 is not possible"),
        ((255, "/new", DISK, 0, None), Invalid, "disk id 255 is not possible"),
        ((5, "/new", 1000, 0, None), Invalid, "a disk of 1000 bytes is not possible"),
        ((5, "/new", DISK, 0, "a/b"), Invalid, "is no name for a disk"),
        ((5, "/small", DISK, 0, None), Unsuitable, "/small has .* bytes, less than the .* asked for"),
        ((5, "/empty", None, 0, None), Unsuitable, "/empty is empty"),
    ],
)
async def test_a_disk_that_cannot_be_created_leaves_no_trace(
    arguments: tuple[int, str, int | None, int, str | None], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)):
        pass
    bench.storage.media["/copy"] = bench.storage.media["/one"].crash(lose_all)
    bench.storage.add("/small", DISK - 512)
    bench.storage.add("/empty", 0)
    async with bench.mount() as manager:
        before, tables = bench.snapshot(), tables_of(manager)
        with pytest.raises(error, match=sentence):
            await manager.create(*arguments)
        assert bench.snapshot() == before
        assert tables_of(manager) == tables
        assert not any(bench.storage.is_open(path) for path in ("/copy", "/small", "/new", "/empty") if path in before)


async def test_a_table_that_is_full_takes_no_more(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount() as manager:
        last = 0
        with pytest.raises(NoSpace, match="the disk table is full; use shorter paths") as caught:
            for number in range(1, 255):
                await manager.create(number, f"/{number:03}" + "x" * 4000, 512, 0, None)
                last = number
        assert caught.value.errno == errno.ENOSPC
        assert 120 < last < 131
        assert list(manager.devices) == list(range(1, last + 1))
        assert not bench.storage.is_open(f"/{last + 1:03}" + "x" * 4000)
        await manager.create(254, "/short", 512, 0, None)
        await manager.remove(254)
    async with bench.mount() as manager:
        assert len(manager.devices) == last


# What fails at its commit leaves the old state


async def create(manager: Manager) -> None:
    await manager.create(5, "/five", DISK, 1, None)


async def create_loose(manager: Manager) -> None:
    await manager.create(5, "/five", DISK, 0, None)


async def attach(manager: Manager) -> None:
    await manager.attach(2, 1)


async def detach(manager: Manager) -> None:
    await manager.detach(1)


async def remove(manager: Manager) -> None:
    await manager.remove(1)


async def remove_loose(manager: Manager) -> None:
    await manager.remove(2)


async def rename(manager: Manager) -> None:
    await manager.set_device_name(manager.devices[1], "renamed")


async def threshold(manager: Manager) -> None:
    await manager.set_migrate_threshold(manager.devices[2], 1)


operations = pytest.mark.parametrize(
    "operation", [create, create_loose, attach, detach, remove, remove_loose, rename, threshold]
)


@operations
@pytest.mark.parametrize("kind", [Operation.WRITE, Operation.FLUSH])
async def test_a_commit_that_fails_leaves_the_old_state(
    operation: Callable[[Manager], Awaitable[None]], kind: Operation, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("cache 1 has failed", at_least=1)
    bench = Bench()
    async with bench.doomed(Failed, "cache 1 has failed", devices=(ONE, LOOSE)) as manager:
        await write(manager.devices[1], 0, page(1))
        await write(manager.devices[2], 0, page(2))
        await manager.caches[1].drop_caches()
        await manager.devices[2].flush()
        before = tables_of(manager)
        thresholds = {number: device.migrate_threshold for number, device in manager.devices.items()}
        bench.fault("/ssd.img", Fault(kind, end=MIB, times=None))
        with pytest.raises(Failed) as caught:
            await operation(manager)
        assert caught.value.errno == errno.EIO
        assert tables_of(manager) == before
        assert {number: device.migrate_threshold for number, device in manager.devices.items()} == thresholds
        assert not bench.storage.media.get("/five") or not bench.storage.is_open("/five")
        assert await read(manager.devices[1], 0, LINE) == page(1)
        assert await read(manager.devices[2], 0, LINE) == page(2)
        assert manager.caches[1].state.startswith("failed")
        assert await after_a_crash(bench) == before
    assert bench.nothing_is_open()


@operations
async def test_a_crash_at_any_moment_leaves_the_old_state_or_the_new_one(
    operation: Callable[[Manager], Awaitable[None]], autojump_clock: Clock
) -> None:
    """R9: the power fails at each write and each flush of the operation, and loses what was not flushed."""
    seen = set()
    for moment in range(40):
        bench = Bench()
        reached = False
        async with bench.mount(devices=(ONE, LOOSE)) as manager:
            await write(manager.devices[1], 0, page(1))
            await manager.devices[1].flush()
            before = (tables_of(manager), manager.devices[2].migrate_threshold)
            kind = (Operation.FLUSH, Operation.WRITE)[moment % 2]
            hang = bench.fault("/ssd.img", Fault(kind, Effect.HANG, skip=moment // 2))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(operation, manager)
                await trio.testing.wait_all_tasks_blocked()
                reached = hang.met > 0
                crashed = Bench(bench.storage.crash(lose_all))
                hang.release()
            after = (tables_of(manager), manager.devices[2].migrate_threshold if 2 in manager.devices else 70)
            async with crashed.mount() as again:
                found = (tables_of(again), again.devices[2].migrate_threshold if 2 in again.devices else 70)
                if 1 in again.devices:
                    assert await read(again.devices[1], 0, LINE) == page(1)
            detached = ({**before[0], 1: (*before[0][1][:3], 0)}, before[1])
            assert found in (before, after) or (operation is remove and found == detached)
            seen.add(found == after)
        if not reached:
            break
    else:
        raise AssertionError("it never ended")
    assert seen == {True, False}


# Attach


async def test_attach_and_detach_while_the_disk_is_in_use(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(LOOSE,)) as manager:
        disk = manager.devices[2]
        content = bytearray(DISK)

        async def use(number: int) -> None:
            for turn in range(30):
                offset = (number * 16 + turn % 16) * LINE
                data = page(1000 * number + turn)
                await write(disk, offset, data)
                content[offset : offset + LINE] = data
                assert await read(disk, offset, LINE) == data
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(use, number)
            for _ in range(4):
                await trio.sleep(0.03)
                await manager.attach(2, 1)
                assert disk.cache_id == 1
                await trio.sleep(0.03)
                await manager.detach(2)
                assert disk.cache_id == 0
                assert disk.nr_dirty_caches == 0
        assert await read(disk, 0, DISK) == bytes(content)
        await disk.flush()
        assert bench.storage.media["/loose"].durable.read(0, DISK) == bytes(content)
        assert await after_a_crash(bench) == tables_of(manager)


async def test_attach_makes_durable_first_what_went_past_the_cache(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(LOOSE,)) as manager:
        await write(manager.devices[2], 0, page(1))
        await manager.attach(2, 1)
        assert bench.storage.media["/loose"].durable.read(0, LINE) == page(1)


async def test_a_disk_attached_again_does_not_see_its_former_lines(autojump_clock: Clock) -> None:
    """B22: detached, written past the cache, attached, and the power fails."""
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(ONE,)) as manager:
        disk = manager.devices[1]
        await write(disk, 0, page(1))
        await manager.detach(1)
        await write(disk, 0, page(2))
        await disk.flush()
        await manager.attach(1, 1)
        await write(disk, LINE, page(3))
        await disk.flush()
        after = Bench(bench.storage.crash(lose_all))
    async with after.mount() as manager:
        assert await read(manager.devices[1], 0, 2 * LINE) == page(2) + page(3)


@pytest.mark.parametrize(
    ("number", "cache", "error", "sentence"),
    [
        (1, 1, InUse, "disk 1 is attached to cache 1; detach it first"),
        (2, 9, NoSuchThing, "there is no cache 9"),
        (9, 1, NoSuchThing, "there is no disk 9"),
        (2, 0, Invalid, "cache id 0 is not possible"),
    ],
)
async def test_attach_is_refused(number: int, cache: int, error: type[LcfsError], sentence: str, autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE, LOOSE)) as manager:
        before = tables_of(manager)
        with pytest.raises(error, match=sentence):
            await manager.attach(number, cache)
        assert tables_of(manager) == before


async def test_attach_to_another_cache_needs_a_detach_between(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        await manager.detach(1)
        await manager.attach(1, 2)
        await write(manager.devices[1], LINE, page(2))
        await manager.devices[1].flush()
        assert await after_a_crash(bench, "/a.img", "/b.img") == tables_of(manager) == {1: ("/one", "disk1", DISK, 2)}
    async with bench.mount("/a.img", "/b.img") as manager:
        assert await read(manager.devices[1], 0, 2 * LINE) == page(1) + page(2)


# Detach


async def test_detach_leaves_everything_on_the_backing(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image(segments=40)
    async with bench.mount(devices=(DeviceSpec("/one", size=400 * LINE),)) as manager:
        disk = manager.devices[1]
        for line in range(260):
            await write(disk, line * LINE, page(line))
        await write(disk, 300 * LINE + 100, b"bytes")
        expected = await read(disk, 0, disk.size)
        await manager.detach(1)
        assert (disk.nr_dirty_caches, manager.caches[1].nr_dirty_caches, disk.cache_id) == (0, 0, 0)
        assert bench.storage.media["/one"].durable.read(0, disk.size) == expected
        assert await read(disk, 0, disk.size) == expected


async def test_detach_of_a_clean_disk_writes_only_the_table(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await manager.detach(1)
    assert bench.storage.media["/one"].unsynced.writes == []


@pytest.mark.parametrize("how", ["message", "scope"])
async def test_a_detach_that_is_called_off_leaves_it_attached(how: str, autojump_clock: Clock) -> None:
    """B28: at whatever point it was."""
    bench = Bench()
    await bench.image(segments=200)
    bench.slow["/one"] = 0.05
    async with bench.mount(devices=(DeviceSpec("/one", size=1200 * LINE),)) as manager:
        disk = manager.devices[1]
        for line in range(1000):
            await write(disk, line * LINE, page(line))
        for patience in (0.01, 0.1, 0.3):
            called_off: list[Cancelled] = []

            async def detach(called_off: list[Cancelled] = called_off) -> None:
                with pytest.raises(Cancelled) as caught:
                    await manager.detach(1)
                called_off.append(caught.value)

            with trio.move_on_after(patience if how == "scope" else 1000):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(detach)
                    if how == "message":
                        await trio.sleep(patience)
                        await manager.message("cancel 1")
            if how == "message":
                ((sentence, number),) = [(str(error), error.errno) for error in called_off]
                assert (sentence, number) == ("called off; disk 1 stays as it was", errno.ECANCELED)
            assert disk.cache_id == 1
            await write(disk, 1100 * LINE, page(1))
            await disk.flush()
            assert disk.nr_dirty_caches > 0
        assert await after_a_crash(bench) == tables_of(manager)
        await manager.detach(1)
        assert disk.nr_dirty_caches == 0
        assert bench.storage.media["/one"].live.read(0, 1000 * LINE) == b"".join(page(line) for line in range(1000))


async def test_the_disk_is_used_while_it_drains(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image(segments=200)
    bench.slow["/one"] = 0.05
    async with bench.mount(devices=(DeviceSpec("/one", size=1200 * LINE),)) as manager:
        disk = manager.devices[1]
        for line in range(1000):
            await write(disk, line * LINE, page(line))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.detach, 1)
            longest = 0.0
            for turn in range(20):
                begin = trio.current_time()
                await write(disk, turn * LINE, page(2000 + turn))
                assert await read(disk, turn * LINE, LINE) == page(2000 + turn)
                longest = max(longest, trio.current_time() - begin)
                await trio.sleep(0.02)
        assert longest < 1.0
        assert bench.storage.media["/one"].live.read(0, 20 * LINE) == b"".join(page(2000 + turn) for turn in range(20))


async def test_detach_of_a_disk_whose_backing_fails_leaves_it_attached(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1 is degraded")
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        fault = bench.fault("/one", Fault(Operation.WRITE, times=None))
        with pytest.raises(Failed, match="disk 1: /one cannot be written"):
            await manager.detach(1)
        assert manager.devices[1].cache_id == 1
        assert manager.devices[1].state.startswith("degraded /one cannot be written")
        assert await read(manager.devices[1], 0, LINE) == page(1)
        fault.release()
        await manager.detach(1)
        assert bench.storage.media["/one"].durable.read(0, LINE) == page(1)


async def test_detach_is_refused(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE, DeviceSpec("/two", id=3, size=DISK, cache=2), LOOSE)) as manager:
        with pytest.raises(Invalid, match="disk 2 is not attached to a cache"):
            await manager.detach(2)
    async with bench.mount("/a.img") as manager:
        with pytest.raises(Missing, match=r"the cache of disk 3, [0-9a-f-]{36}, is not mounted; mount it first"):
            await manager.detach(3)


async def test_one_operation_per_disk_at_a_time(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE, LOOSE)) as manager:
        await write(manager.devices[1], 0, page(1))
        hang = bench.fault("/one", Fault(Operation.WRITE, Effect.HANG))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.detach, 1)
            await trio.testing.wait_all_tasks_blocked()
            for again in (manager.detach(1), manager.remove(1), manager.suspend(manager.devices[1]), manager.attach(1, 1)):
                with pytest.raises(InUse, match=r"another operation on disk 1 is under way; .*`cancel 1`"):
                    await again
            # other disks are none of its business
            await manager.attach(2, 1)
            await manager.detach(2)
            hang.release()
        with pytest.raises(NoSuchThing, match="nothing is under way with disk 1"):
            manager.cancel(1)


# Remove


async def test_remove_drains_and_leaves_the_backing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE, LOOSE)) as manager:
        disk = manager.devices[1]
        await write(disk, 0, page(1))
        await manager.remove(1)
        assert list(manager.devices) == [2]
        assert bench.storage.media["/one"].durable.read(0, LINE) == page(1)
        assert not bench.storage.is_open("/one")
        assert disk.write_nowait(0, page(2)) == -1
        with pytest.raises(Missing, match="disk 1 is missing: it was removed"):
            await disk.write(0, page(2))
        assert await after_a_crash(bench) == tables_of(manager)
        await manager.create(1, "/one", None, 1, None)
        assert await read(manager.devices[1], 0, LINE) == page(1)


async def test_a_disk_that_is_open_is_not_removed(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        manager.devices[1].users = 2
        with pytest.raises(InUse, match=r"disk 1 is open by 2 user\(s\); close it") as caught:
            await manager.remove(1)
        assert caught.value.errno == errno.EBUSY
        assert manager.devices[1].cache_id == 1
        manager.devices[1].users = 0
        await manager.remove(1)


async def test_a_missing_disk_with_dirty_lines_is_not_removed(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
    medium = bench.storage.media.pop("/one")
    async with bench.mount() as manager:
        with pytest.raises(Missing, match="disk 1 is missing and its 1 dirty lines wait for it; bring it back first"):
            await manager.remove(1)
    bench.storage.media["/one"] = medium
    async with bench.mount() as manager:
        await manager.caches[1].drop_caches()
    del bench.storage.media["/one"]
    async with bench.mount() as manager:
        await manager.remove(1)
        assert manager.devices == {}
        assert await after_a_crash(bench) == {}


# Suspend


async def test_suspend_holds_new_requests_until_resume(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        disk = manager.devices[1]
        await write(disk, 0, page(1))
        await manager.suspend(disk)
        assert disk.suspended
        assert len((await bench.superblock()).disks) == 1
        crashed = Bench(bench.storage.crash(lose_all))
        async with crashed.mount() as after:
            assert await read(after.devices[1], 0, LINE) == page(1)
        done: list[str] = []

        async def ask(name: str, request: Awaitable[object]) -> None:
            await request
            done.append(name)

        async with trio.open_nursery() as nursery:
            assert disk.write_nowait(0, page(2)) == -1
            assert disk.read_nowait(0, LINE) is None
            nursery.start_soon(ask, "write", disk.write(0, page(2)))
            nursery.start_soon(ask, "read", disk.read(LINE, LINE))
            nursery.start_soon(ask, "flush", disk.flush())
            await trio.sleep(1000)
            assert done == []
            await manager.suspend(disk)
            manager.resume(disk)
            manager.resume(disk)
        assert sorted(done) == ["flush", "read", "write"]
        assert not disk.suspended


# Caches


async def test_free_a_cache_that_nobody_uses(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE,)) as manager:
        with pytest.raises(InUse, match="cache 1 is in use by disk 1; detach first") as caught:
            await manager.free_cache(1)
        assert caught.value.errno == errno.EBUSY
        manager.cursor = 2
        await manager.free_cache(2)
        assert list(manager.caches) == [1]
        assert manager.cursor == 0
        assert not bench.storage.is_open("/b.img")
        assert (await bench.superblock("/b.img")).clean
        with pytest.raises(NoSuchThing):
            await manager.free_cache(2)
        await manager.detach(1)
        await manager.free_cache(1)
        assert manager.caches == {}
        await write(manager.devices[1], 0, page(1))
        assert await read(manager.devices[1], 0, LINE) == page(1)


async def test_when_the_first_cache_goes_the_next_one_remembers_all(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(LOOSE,)) as manager:
        await manager.free_cache(1)
        assert await after_a_crash(bench, "/b.img") == {2: ("/loose", "disk2", DISK, 0)}


async def test_nobody_joins_a_cache_that_is_being_freed(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.slow["/b.img"] = 1.0
    async with bench.mount("/a.img", "/b.img", devices=(LOOSE,)) as manager:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.free_cache, 2)
            await trio.sleep(0.1)
            with pytest.raises((NoSuchThing, InUse)):
                await manager.attach(2, 2)
            with pytest.raises((NoSuchThing, InUse)):
                await manager.create(9, "/nine", DISK, 2, None)
        assert tables_of(manager) == {2: ("/loose", "disk2", DISK, 0)}
        assert "/nine" not in bench.storage.media
        await write(manager.devices[2], 0, page(1))
        await manager.devices[2].flush()


async def test_resume_a_cache_with_the_disks_it_remembers(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)) as manager:
        await write(manager.devices[2], 0, page(2))
    async with bench.mount("/a.img", devices=(ONE,)) as manager:
        manager.cursor = 9
        await manager.resume_cache("/b.img")
        assert list(manager.caches) == [1, 9]
        assert tables_of(manager) == {1: ("/one", "disk1", DISK, 1), 2: ("/two", "disk2", DISK, 9)}
        assert await read(manager.devices[2], 0, LINE) == page(2)
        await write(manager.devices[2], LINE, page(3))
        await manager.devices[2].flush()
        await manager.caches[9].drop_caches()
        assert bench.storage.media["/two"].durable.read(0, 2 * LINE) == page(2) + page(3)
        assert await after_a_crash(bench, "/a.img", "/b.img") == tables_of(manager)
    async with bench.mount("/b.img") as manager:
        assert list(manager.caches) == [9]


async def test_a_cache_that_the_mount_missed_brings_its_disk_back(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(DeviceSpec("/two", id=2, size=DISK, cache=2),)) as manager:
        await write(manager.devices[2], 0, page(2))
    async with bench.mount("/a.img") as manager:
        assert not manager.devices[2].present
        manager.cursor = 2
        await manager.resume_cache("/b.img")
        assert manager.devices[2].state == "running"
        assert await read(manager.devices[2], 0, LINE) == page(2)


async def no_image(bench: Bench) -> None:
    bench.storage.add("/b.img", 4 * MIB).live.write(0, b"data")


async def nothing(bench: Bench) -> None:
    pass


async def the_same_id(bench: Bench) -> None:
    other = Bench(bench.storage)
    async with other.mount("/b.img", devices=(DeviceSpec("/other", id=1, size=DISK),)):
        pass


async def a_hole(bench: Bench) -> None:
    other = Bench(bench.storage)
    async with other.mount("/b.img", devices=(DeviceSpec("/other", id=5, size=DISK),)) as manager:
        await write(manager.devices[5], 0, page(1))
    bench.storage.media["/b.img"].live.write(MIB + 130, b"\xff")


@pytest.mark.parametrize(
    ("prepare", "error", "sentence"),
    [
        (no_image, NotACacheImage, "/b.img is not an lcfs cache image"),
        (nothing, NoSuchThing, "/b.img does not exist"),
        (the_same_id, AlreadyThere, "disk id 1 is /one here and /other in /b.img; remove one first"),
        (a_hole, Damaged, "was durable and is damaged"),
    ],
)
async def test_a_cache_that_cannot_be_resumed_changes_nothing(
    prepare: Callable[[Bench], Awaitable[None]], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    async with bench.mount("/a.img", devices=(ONE,)):
        pass
    await prepare(bench)
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        before, tables = bench.snapshot(), tables_of(manager)
        with pytest.raises(error, match=sentence):
            await manager.resume_cache("/b.img")
        assert (list(manager.caches), tables_of(manager), bench.snapshot()) == ([1], tables, before)
        assert not bench.storage.is_open("/b.img") if "/b.img" in before else True
        assert not bench.storage.is_open("/other") if "/other" in before else True


async def test_a_copy_of_a_cache_is_not_resumed_beside_it(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img"):
        pass
    bench.storage.media["/b.img"] = bench.storage.media["/a.img"].crash(lose_all)
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        with pytest.raises(AlreadyThere, match=r"/b.img is a copy of a cache that is mounted here; mount one of them only"):
            await manager.resume_cache("/b.img")
        assert list(manager.caches) == [1]
        assert not bench.storage.is_open("/b.img")


async def test_resuming_an_image_that_cannot_be_read(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/b.img"):
        pass
    bench.fault("/b.img", Fault(Operation.READ, times=None))
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        with pytest.raises(LcfsError, match=r"/b.img"):
            await manager.resume_cache("/b.img")
        assert list(manager.caches) == [1]
        assert not bench.storage.is_open("/b.img")


async def test_resume_with_a_backing_that_is_not_what_it_was(autojump_clock: Clock) -> None:
    """Missing, shrunk, or in use elsewhere since: its lines are kept, as at a mount."""
    for spoil in ("gone", "shrunk", "stale"):
        bench = Bench()
        async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)) as manager:
            await write(manager.devices[2], 0, page(2))
        medium = bench.storage.media["/two"]
        assert medium.label is not None
        if spoil == "gone":
            del bench.storage.media["/two"]
        elif spoil == "shrunk":
            medium.resize(DISK - 512)
        else:
            medium.label = Label(medium.label.uuid, 12345)
        async with bench.mount("/a.img") as manager:
            manager.cursor = 2
            await manager.resume_cache("/b.img")
            disk = manager.devices[2]
            assert disk.state.startswith("missing /two ")
            assert disk.nr_dirty_caches == 1
            assert spoil == "gone" or not bench.storage.is_open("/two")
            with pytest.raises(Missing):
                await manager.caches[2].drop_caches()


async def test_resume_with_a_stale_backing_and_nothing_dirty(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)) as manager:
        await write(manager.devices[2], 0, page(2))
        await manager.caches[1].drop_caches()
    medium = bench.storage.media["/two"]
    assert medium.label is not None
    medium.label = Label(medium.label.uuid, 12345)
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        await manager.resume_cache("/b.img")
        assert manager.devices[2].state == "running"
        assert await read(manager.devices[2], 0, LINE) == page(2)


@pytest.mark.parametrize("copy", [0, 1])
async def test_resume_with_one_superblock(copy: int, autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("the superblock that is left is older than the log", at_least=0)
    bench = Bench()
    async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)) as manager:
        await write(manager.devices[2], 0, page(2))
    bench.storage.media["/b.img"].live.write(copy * MIB // 2 + 100, b"\xa5")
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        await manager.resume_cache("/b.img")
        assert await read(manager.devices[2], 0, LINE) == page(2)


async def test_a_resume_that_fails_at_its_commit_leaves_nothing(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 2 has failed")
    bench = Bench()
    async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)) as manager:
        await write(manager.devices[2], 0, page(2))
    fault = bench.fault("/b.img", Fault(Operation.FLUSH))
    async with bench.mount("/a.img", devices=(ONE,)) as manager:
        manager.cursor = 2
        with pytest.raises(Failed, match="could not be flushed"):
            await manager.resume_cache("/b.img")
        assert (list(manager.caches), list(manager.devices)) == ([1], [1])
        assert not bench.storage.is_open("/b.img")
        assert not bench.storage.is_open("/two")
        assert fault.met == 1
        await manager.resume_cache("/b.img")
        assert await read(manager.devices[2], 0, LINE) == page(2)


async def test_a_disk_that_is_used_here_without_its_cache(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/b.img", devices=(DeviceSpec("/two", id=2, size=DISK),)):
        pass
    async with bench.mount("/a.img", devices=(DeviceSpec("/two", id=2),)) as manager:
        manager.cursor = 2
        with pytest.raises(InUse, match=r"disk 2 is in use here without the cache in /b.img; remove it first"):
            await manager.resume_cache("/b.img")
        assert manager.devices[2].state == "running"


async def test_two_who_make_the_same_thing_at_once(autojump_clock: Clock) -> None:
    """One gets it, the other is told; nothing is left of the other's attempt."""
    bench = Bench()
    async with bench.mount("/b.img"):
        pass
    bench.slow["/b.img"] = bench.slow["/x"] = bench.slow["/y"] = 0.5
    async with bench.mount("/a.img") as manager:
        manager.cursor = 2
        outcomes: list[str] = []

        async def attempt(request: Awaitable[None]) -> None:
            try:
                await request
            except (InUse, AlreadyThere, NoSuchThing) as exc:
                outcomes.append(type(exc).__name__)
            else:
                outcomes.append("done")

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(attempt, manager.resume_cache("/b.img"))
        assert sorted(outcomes)[-1] == "done"
        assert len(outcomes) == 2
        outcomes.clear()
        async with trio.open_nursery() as nursery:
            for path in ("/x", "/y"):
                nursery.start_soon(attempt, manager.create(9, path, DISK, 1, None))
        assert sorted(outcomes)[-1] == "done"
        assert outcomes.count("done") == 1
        assert len({"/x", "/y"} & bench.storage.media.keys()) == 1
        outcomes.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(attempt, manager.remove(9))
        assert outcomes.count("done") == 1
        assert manager.devices == {}


async def test_an_id_that_its_cache_gave_to_another_disk(autojump_clock: Clock) -> None:
    """The first image missed it: there the id still stands for the disk that was removed."""
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(DeviceSpec("/old", id=2, size=DISK, cache=2),)):
        pass
    async with bench.mount("/b.img") as manager:
        await manager.remove(2)
        await manager.create(2, "/new", DISK, 2, None)
    async with bench.mount("/a.img", "/b.img") as manager:
        assert tables_of(manager) == {2: ("/new", "disk2", DISK, 2)}


async def test_a_missing_disk_is_not_attached(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(LOOSE,)):
        pass
    del bench.storage.media["/loose"]
    async with bench.mount() as manager:
        with pytest.raises(Missing, match="disk 2 is missing: /loose does not exist"):
            await manager.attach(2, 1)
        await manager.remove(2)
        assert manager.devices == {}


async def test_a_drop_is_called_off_by_a_message(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.slow["/one"] = 100.0
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        async with trio.open_nursery() as nursery:

            async def drop() -> None:
                with pytest.raises(Cancelled):
                    await manager.caches[1].drop_caches()

            nursery.start_soon(drop)
            await trio.sleep(1)
            await manager.message("cancel 1")
        assert manager.devices[1].nr_dirty_caches == 1


async def test_resume_needs_a_free_id(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/b.img"):
        pass
    async with bench.mount("/a.img") as manager:
        with pytest.raises(Invalid, match="the cursor is on 0; use switch_to ID"):
            await manager.resume_cache("/b.img")
        manager.cursor = 1
        with pytest.raises(AlreadyThere, match=r"cache 1 is /a.img; use switch_to with a free id"):
            await manager.resume_cache("/b.img")


async def test_format_makes_an_empty_cache_of_what_may_be_one(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.storage.add("/blank", 4 * MIB)
    bench.storage.add("/data", 4 * MIB).live.write(5000, b"data")
    async with bench.mount("/a.img", devices=(ONE,)) as manager:
        await manager.format_cache_device("/blank")
        assert (await bench.superblock("/blank")).disks == ()
        uuid = (await bench.superblock("/blank")).uuid
        await manager.format_cache_device("/blank")
        assert (await bench.superblock("/blank")).uuid != uuid
        before = bench.snapshot()
        for path, error, sentence in (
            ("/data", AlreadyThere, "/data holds data that is not an lcfs cache"),
            ("/a.img", InUse, "/a.img is in use"),
            ("/one", InUse, "/one is in use"),
            ("/nowhere", NoSuchThing, "/nowhere does not exist"),
        ):
            with pytest.raises(error, match=sentence):
                await manager.format_cache_device(path)
        assert bench.snapshot() == before


async def test_a_read_only_mount_changes_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE, LOOSE)):
        pass
    bench.storage.add("/blank", 4 * MIB)
    async with bench.mount(readonly=True) as manager:
        before = bench.snapshot()
        manager.cursor = 5
        for request in (
            manager.format_cache_device("/blank"),
            manager.resume_cache("/blank"),
            manager.free_cache(1),
            manager.create(9, "/new", DISK, 0, None),
            manager.attach(2, 1),
            manager.detach(1),
            manager.remove(1),
        ):
            with pytest.raises(NotPermitted, match="read-only") as caught:
                await request
            assert caught.value.errno == errno.EROFS
        assert bench.snapshot() == before


# Names and thresholds


async def test_a_name_and_a_threshold_are_durable_when_they_are_set(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE, DeviceSpec("/two", id=3, size=DISK, cache=2), LOOSE)) as manager:
        for disk in manager.devices.values():
            await manager.set_device_name(disk, f"größe {disk.id}")
            await manager.set_migrate_threshold(disk, disk.id)
        crashed = Bench(bench.storage.crash(lose_all))
        async with crashed.mount("/a.img", "/b.img") as again:
            assert {disk.id: (disk.name, disk.migrate_threshold) for disk in again.devices.values()} == {
                number: (f"größe {number}", number) for number in (1, 2, 3)
            }
        with pytest.raises(Invalid):
            await manager.set_device_name(manager.devices[1], "")
        with pytest.raises(Invalid, match="migrate_threshold takes 0 to 100, not 300"):
            await manager.set_migrate_threshold(manager.devices[1], 300)
        assert manager.devices[1].migrate_threshold == 1


# Going down


async def test_a_clean_stop_leaves_clean_images_and_flushed_disks(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", "/b.img", devices=(ONE, LOOSE)) as manager:
        await write(manager.devices[1], 0, page(1))
        await write(manager.devices[2], 0, page(2))
    assert (await bench.superblock("/a.img")).clean
    assert (await bench.superblock("/b.img")).clean
    assert all(not medium.unsynced.writes for medium in bench.storage.media.values())
    assert bench.nothing_is_open()


async def test_an_error_in_the_mount_stops_it_cleanly_and_is_told(autojump_clock: Clock) -> None:
    bench = Bench()
    with pytest.raises(ZeroDivisionError):
        async with bench.mount(devices=(ONE,)) as manager:
            await write(manager.devices[1], 0, page(1))
            raise ZeroDivisionError
    assert (await bench.superblock()).clean
    assert bench.nothing_is_open()


async def test_a_stop_that_cannot_be_clean_says_so_and_lets_go_of_everything(
    autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("cache 1 has failed")
    expect_log("cache 1 was not left clean")
    bench = Bench()
    two = (ONE, DeviceSpec("/two", size=DISK, cache=2))
    async with bench.doomed(Failed, "cache 1 has failed", "/a.img", "/b.img", devices=two) as manager:
        await write(manager.devices[1], 0, page(1))
        await write(manager.devices[2], 0, page(2))
        bench.fault("/a.img", Fault(Operation.FLUSH, times=None))
    assert not (await bench.superblock("/a.img")).clean
    assert (await bench.superblock("/b.img")).clean
    assert bench.nothing_is_open()


async def test_an_image_that_hangs_does_not_keep_the_others_from_stopping(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 was not left clean", at_least=0)
    bench = Bench()
    two = (ONE, DeviceSpec("/two", size=DISK, cache=2))
    async with bench.doomed(Failed, "cache 1 was not left clean", "/a.img", "/b.img", devices=two) as manager:
        await write(manager.devices[1], 0, page(1))
        await write(manager.devices[2], 0, page(2))
        bench.fault("/a.img", Fault(Operation.WRITE, Effect.HANG, times=None))
        begin = trio.current_time()
    assert trio.current_time() - begin < 600
    assert (await bench.superblock("/b.img")).clean
    assert bench.nothing_is_open()


async def test_no_space_at_stop(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("no space left for /ssd.img")
    expect_log("was not left clean")
    bench = Bench()
    async with bench.doomed(NoSpace, "no space left for /ssd.img", devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        bench.fault("/ssd.img", Fault(Operation.WRITE, error=errno.ENOSPC, times=None))
    assert bench.nothing_is_open()
