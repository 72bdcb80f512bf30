# SPDX-License-Identifier: GPL-2.0-or-later
"""Draining an image that is not mounted: identity, crashes at each step, calling off, doing it again."""

from __future__ import annotations

import random

import attrs
import pytest
import trio
from trio.testing import MockClock as Clock

from lcfs.engine.block_store import Label
from lcfs.engine.errors import Cancelled, Failed, InUse, Invalid, LcfsError, NoSuchThing, WrongDisk
from lcfs.engine.geometry import LINE
from lcfs.engine.orphan import Orphan
from lcfs.engine.spec import DeviceSpec
from lcfs.testing import Effect, Fault, Log, Medium, MemoryStorage, Operation, keep_all, lose_all
from lcfs.testing.crash_states import crash_points, survivals
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

IMAGE = "/ssd.img"
MOVED = {1: "/elsewhere/one.img", 2: "/elsewhere/two.img"}
CONTENT = {1: page(1, 20), 2: page(2, 10)}


async def left_behind() -> Bench:
    """An image with dirty lines of two disks; their backings are somewhere else now."""
    bench = Bench()
    await bench.image()
    specs = tuple(DeviceSpec(f"/disk{number}.img", id=number, size=DISK) for number in (1, 2))
    async with bench.mount(devices=specs) as manager:
        await manager.caches[1].set_tunable("update_interval", 0)
        await manager.caches[1].set_tunable("allow_migrate", 0)
        for number, content in CONTENT.items():
            await write(manager.devices[number], 3 * LINE, content)
    for number, path in MOVED.items():
        bench.storage.media[path] = bench.storage.media.pop(f"/disk{number}.img")
    return bench


async def drain(bench: Bench, backings: dict[int, str] = MOVED, scope: trio.CancelScope | None = None) -> Orphan:
    orphan = Orphan(bench.storage, IMAGE, backings, bench.said.append)
    try:
        with trio.fail_after(10_000):
            await orphan.drain(scope or trio.CancelScope())
    finally:
        assert bench.nothing_is_open()
    return orphan


def on_backing(storage: MemoryStorage, number: int) -> bytes:
    return storage.media[MOVED[number]].durable.read(3 * LINE, len(CONTENT[number]))


async def test_lines_go_to_the_backings_and_the_image_keeps_none(autojump_clock: Clock) -> None:
    bench = await left_behind()
    orphan = await drain(bench)
    assert (orphan.found, orphan.errors) == ({1: 20, 2: 10}, {})
    assert {number: on_backing(bench.storage, number) for number in CONTENT} == CONTENT
    assert (await bench.superblock()).clean
    before = bench.snapshot()
    orphan = await drain(bench)
    assert orphan.found == {1: 0, 2: 0}
    assert bench.snapshot() == before, "with nothing to write nothing is written"
    for number, path in MOVED.items():
        bench.storage.media[f"/disk{number}.img"] = bench.storage.media.pop(path)
    async with bench.mount() as manager:
        assert manager.caches[1].nr_dirty_caches == 0
        for number, content in CONTENT.items():
            assert await read(manager.devices[number], 3 * LINE, len(content)) == content


async def test_lines_of_other_disks_stay(autojump_clock: Clock) -> None:
    bench = await left_behind()
    orphan = await drain(bench, {2: MOVED[2]})
    assert (orphan.found, orphan.devices[1].nr_dirty_caches, orphan.devices[2].nr_dirty_caches) == ({1: 20, 2: 10}, 20, 0)
    assert on_backing(bench.storage, 2) == CONTENT[2]
    assert on_backing(bench.storage, 1) == bytes(20 * LINE)
    await drain(bench, {1: MOVED[1]})
    assert on_backing(bench.storage, 1) == CONTENT[1]


def shrunk(bench: Bench) -> None:
    bench.storage.media[MOVED[1]].resize(DISK - LINE)


def another(bench: Bench) -> None:
    medium = bench.storage.media[MOVED[1]]
    assert medium.label is not None
    medium.label = attrs.evolve(medium.label, uuid=bench.storage.media[MOVED[2]].label.uuid)  # type: ignore[union-attr]


def used_elsewhere(bench: Bench) -> None:
    medium = bench.storage.media[MOVED[1]]
    assert medium.label is not None
    medium.label = Label(medium.label.uuid, medium.label.stamp ^ 1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(shrunk, "it has shrunk"), (another, "another disk"), (used_elsewhere, "was in use under another cache since disk 1")],
)
async def test_only_the_disk_that_it_was_is_written_to(spoil: object, sentence: str, autojump_clock: Clock) -> None:
    bench = await left_behind()
    spoil(bench)  # type: ignore[operator]
    before = bench.snapshot()
    with pytest.raises(WrongDisk, match=sentence):
        await drain(bench)
    assert bench.snapshot() == before


@pytest.mark.parametrize(
    ("backings", "error", "sentence"),
    [
        ({7: MOVED[1]}, NoSuchThing, r"/ssd.img has no disk 7 attached; it has 1 \(/disk1.img\), 2 \(/disk2.img\)"),
        ({1: MOVED[1], 2: MOVED[1]}, Invalid, "/elsewhere/one.img is given twice"),
        ({1: IMAGE}, Invalid, "/ssd.img is given twice"),
        ({1: "/nowhere"}, NoSuchThing, "/nowhere does not exist"),
    ],
)
async def test_words_that_cannot_be_meant(
    backings: dict[int, str], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = await left_behind()
    before = bench.snapshot()
    with pytest.raises(error, match=sentence):
        await drain(bench, backings)
    assert bench.snapshot() == before


async def test_what_is_in_use_is_refused(autojump_clock: Clock) -> None:
    bench = await left_behind()
    for path in (IMAGE, MOVED[2]):
        store = await bench.storage.open(path)
        with pytest.raises(InUse, match=f"{path} is in use"):
            await Orphan(bench.storage, IMAGE, MOVED, bench.said.append).drain(trio.CancelScope())
        await store.close()
    assert (await drain(bench)).errors == {}


async def test_a_backing_without_a_uuid_is_told(autojump_clock: Clock) -> None:
    bench = await left_behind()
    bench.storage.media[MOVED[1]].label = None
    await drain(bench)
    assert "/elsewhere/one.img carries no UUID: only its size says that it is disk 1" in bench.said


async def test_a_backing_that_fails_keeps_its_lines_and_no_others(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1 is degraded")
    bench = await left_behind()
    bench.fault(MOVED[1], Fault(Operation.WRITE, times=None))
    orphan = await drain(bench)
    assert "cannot be written" in str(orphan.errors[1])
    assert (orphan.devices[1].nr_dirty_caches, orphan.devices[2].nr_dirty_caches) == (20, 0)
    bench.faults[MOVED[1]].clear()
    await drain(bench)
    assert on_backing(bench.storage, 1) == CONTENT[1]


async def test_an_image_that_fails_is_told(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed")
    bench = await left_behind()
    # begin makes two commits; what fails is that of the tail
    fault = bench.fault(IMAGE, Fault(Operation.WRITE, skip=2, times=None))
    with pytest.raises(Failed, match=r"cache 1 has failed: the superblock could not be written to /ssd\.img"):
        await drain(bench)
    assert fault.met
    bench.faults[IMAGE].clear()
    await drain(bench)
    assert {number: on_backing(bench.storage, number) for number in CONTENT} == CONTENT


async def test_called_off_it_leaves_the_rest_in_the_image(autojump_clock: Clock) -> None:
    bench = await left_behind()
    hang = bench.fault(MOVED[2], Fault(Operation.WRITE, Effect.HANG, times=None))
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def call_off() -> None:
            await trio.sleep(5)
            scope.cancel()

        nursery.start_soon(call_off)
        with pytest.raises(Cancelled, match=r"called off; 10 dirty lines are still in /ssd\.img"):
            await drain(bench, scope=scope)
    assert on_backing(bench.storage, 1) == CONTENT[1]
    assert (await bench.superblock()).clean
    hang.release()
    # the segments hold lines of both, so the tail has not moved, and those of disk 1 are written once more
    assert (await drain(bench)).found == {1: 20, 2: 10}
    assert {number: on_backing(bench.storage, number) for number in CONTENT} == CONTENT
    assert (await drain(bench)).found == {1: 0, 2: 0}


async def test_power_may_fail_at_each_step_and_it_goes_on_from_there(autojump_clock: Clock) -> None:
    bench = await left_behind()
    media = bench.storage.crash(keep_all).media
    log = Log()
    storage = MemoryStorage({path: medium.crash(keep_all) for path, medium in media.items()}, log=log)
    await Orphan(storage, IMAGE, MOVED, bench.said.append).drain(trio.CancelScope())
    calls = len(log.calls)
    assert calls > 10
    rng = random.Random(9)
    tried = 0
    for point in crash_points(media, log):
        for survival in survivals(point.pending, rng):
            found: dict[str, Medium] = point.media(survival)
            again = MemoryStorage(found, yields=False)
            await Orphan(again, IMAGE, MOVED, bench.said.append).drain(trio.CancelScope())
            for number, content in CONTENT.items():
                assert on_backing(again.crash(lose_all), number) == content, f"power cut at {point.at}"
            tried += 1
    assert tried > 20
