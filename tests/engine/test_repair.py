# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts on damaged images, and what repair makes of them, with the power cut at each of its writes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import attrs
import pytest
from trio.testing import MockClock as Clock

from lcfs.engine.block_store import BlockStore
from lcfs.engine.disk_format import SUPERBLOCK_COPIES
from lcfs.engine.errors import Damaged, Invalid
from lcfs.engine.geometry import LINE
from lcfs.engine.inspection import Inspection, Kind, inspect_image
from lcfs.engine.log_reader import Verdict
from lcfs.engine.repair import cut_log, restore_superblock
from lcfs.testing import Log, LogStore, Medium, MemoryStore, keep_all
from lcfs.testing.crash_states import crash_points, survivals
from tests.engine.rig import CACHE_UUID, Lab, page
from tests.plugins.log_check import ExpectLog

TWO_DISKS = {1: 64 * LINE, 2: 64 * LINE}
Repair = Callable[[BlockStore, Inspection], Awaitable[str]]


async def written(records: int = 6) -> Lab:
    """Records of one line each, durable, disk 1 and 2 in turn, four in a segment; not left by a clean stop."""
    lab = await Lab.new(disks=TWO_DISKS)
    async with lab.run() as rig:
        for number in range(records):
            await rig.write(1 + number % 2, number * LINE, page(number))
            await rig.cache.barrier()
        return lab.crash(keep_all)


def store_of(lab: Lab) -> MemoryStore:
    return MemoryStore(lab.image, "image", yields=False)


async def inspected(lab: Lab) -> Inspection:
    return await inspect_image(store_of(lab))


async def block_of(lab: Lab, record: int) -> int:
    """Block number of the header of a record."""
    return (await lab.records())[record].first_index - 1


async def contents(lab: Lab, records: int) -> list[bool]:
    """Which of the lines of `written` a mount finds; the others must be what the empty backing holds."""
    found = []
    async with lab.run() as rig:
        for number in range(records):
            content = await rig.read(1 + number % 2, number * LINE, LINE)
            assert content in (page(number), bytes(LINE))
            found.append(content == page(number))
    return found


async def at_each_crash(lab: Lab, repair: Repair, seen: Callable[[Lab], Awaitable[str]]) -> dict[str, int]:
    """What a machine finds whose power failed during a repair: how often each answer of `seen`."""
    before = {"image": lab.image.crash(keep_all)}
    log = Log()
    store = LogStore(MemoryStore(before["image"].crash(keep_all), "image", yields=False), log)
    await repair(store, await inspect_image(store))
    rng = random.Random(3)
    answers: dict[str, int] = {}
    for point in crash_points(before, log):
        for survival in survivals(point.pending, rng):
            found: dict[str, Medium] = point.media(survival)
            answer = await seen(Lab(found["image"], lab.crash(keep_all).backings))
            answers[answer] = answers.get(answer, 0) + 1
    return answers


async def test_an_image_without_damage_has_none(autojump_clock: Clock) -> None:
    lab = await written()
    found = await inspected(lab)
    assert (found.damages, found.records, found.lines, found.verdict) == ([], 6, 6, Verdict.END)
    for repair in (cut_log, restore_superblock):
        with pytest.raises(Invalid):
            await repair(store_of(lab), found)


# Superblocks


@pytest.mark.parametrize("copy", [0, 1])
async def test_a_damaged_superblock_copy_is_written_anew(copy: int, autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("older than the log", at_least=0)
    lab = await written()
    lab.flip(SUPERBLOCK_COPIES[copy] + 100)
    found = await inspected(lab)
    (damage,) = found.damages
    assert (damage.kind, damage.offset) == (Kind.SUPERBLOCK_COPY, SUPERBLOCK_COPIES[copy])

    async def seen(lab: Lab) -> str:
        now = await inspected(lab)
        assert await contents(lab, 6) == [True] * 6
        return "repaired" if not now.damages else "as before"

    answers = await at_each_crash(lab, restore_superblock, seen)
    assert answers.keys() == {"repaired", "as before"}
    sentence = await restore_superblock(store_of(lab), found)
    assert sentence == f"superblock copy {copy} was written anew from copy {1 - copy}"
    assert (await inspected(lab)).damages == []
    lab.flip(SUPERBLOCK_COPIES[1 - copy] + 100)
    assert await contents(lab, 6) == [True] * 6, "the new copy is enough"


async def test_without_any_superblock_nothing_can_be_done(autojump_clock: Clock) -> None:
    lab = await written()
    for copy in SUPERBLOCK_COPIES:
        lab.flip(copy + 100)
    found = await inspected(lab)
    assert [damage.kind for damage in found.damages] == [Kind.SUPERBLOCKS]
    for repair in (cut_log, restore_superblock):
        with pytest.raises(Invalid):
            await repair(store_of(lab), found)


@pytest.mark.parametrize("copy", [0, 1])
async def test_an_older_copy_finds_no_hole_that_a_mount_would_not(
    copy: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    """The slots that the older tail names were taken again: who goes by the log finds its beginning all the same."""
    expect_log("older than the log", at_least=0)
    lab = await Lab.new(segments=4)
    async with lab.run() as rig:
        for turn in range(3):
            for number in range(21):
                await rig.write(1, number * LINE, page(100 * turn + number))
            await rig.cache.drop_caches()
        await rig.write(1, 0, page(999))
        await rig.cache.barrier()
        lab = lab.crash(keep_all)
    lab.flip(SUPERBLOCK_COPIES[copy] + 100)
    assert [damage.kind for damage in (await inspected(lab)).damages] == [Kind.SUPERBLOCK_COPY]
    await restore_superblock(store_of(lab), await inspected(lab))
    assert (await inspected(lab)).damages == []
    async with lab.run() as rig:
        assert await rig.read(1, 0, LINE) == page(999)


# Holes


@pytest.mark.parametrize("hole", range(5))
async def test_a_hole_is_cut_only_when_asked_and_then_it_mounts(hole: int, autojump_clock: Clock) -> None:
    lab = await written()
    block = await block_of(lab, hole)
    lab.flip(block * LINE + 40)
    found = await inspected(lab)
    (damage,) = found.damages
    assert (damage.kind, damage.offset) == (Kind.HOLE, block * LINE)
    assert found.lost is not None
    behind = range(hole + 1, 6)
    lines = {disk: sum(1 + number % 2 == disk for number in behind) for disk in (1, 2)}
    assert (found.lost.records, found.lost.lines) == (5 - hole, {disk: count for disk, count in lines.items() if count})
    assert str(found.lost) in damage.text
    with pytest.raises(Damaged):
        await contents(lab, 6)

    async def seen(lab: Lab) -> str:
        now = await inspected(lab)
        if now.damages:
            assert [damage.kind for damage in now.damages if damage.kind is not Kind.SUPERBLOCK_COPY] == [Kind.HOLE]
            return "as before"
        assert await contents(lab, 6) == [number < hole for number in range(6)]
        return "cut"

    answers = await at_each_crash(lab, cut_log, seen)
    assert answers.keys() >= {"as before", "cut"}
    sentence = await cut_log(store_of(lab), found)
    assert sentence.endswith(f"given up: {found.lost}")
    assert (await inspected(lab)).damages == []
    for copy in SUPERBLOCK_COPIES:
        other = lab.crash(keep_all)
        other.flip(copy + 100)
        assert await contents(other, 6) == [number < hole for number in range(6)], "either copy says it"
    assert await contents(lab, 6) == [number < hole for number in range(6)]
    # and the next mount, which has begun another generation since
    assert await contents(lab.crash(keep_all), 6) == [number < hole for number in range(6)]


async def test_a_disk_attached_behind_the_hole_keeps_what_is_written_after_the_cut(autojump_clock: Clock) -> None:
    """Log positions begin again at the cut; its new lines must not pass for those of a former disk with its id."""
    lab = await written()
    superblock = await lab.superblock()
    late = (await lab.records())[5].header.position
    disks = tuple(attrs.evolve(disk, attached_at=late if disk.id == 2 else 0) for disk in superblock.disks)
    await lab.put_superblock(attrs.evolve(superblock, disks=disks))
    lab.flip(await block_of(lab, 0) * LINE + 40)
    await cut_log(store_of(lab), await inspected(lab))
    async with lab.run() as rig:
        await rig.write(2, 0, page(77))
        await rig.cache.barrier()
        assert rig.cache.durable < late, "or this tests nothing"
        lab = lab.crash(keep_all)
    async with lab.run() as rig:
        assert await rig.read(2, 0, LINE) == page(77)


# Lines


async def test_lines_have_a_verdict_and_a_place(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("lines of image are damaged", at_least=0)
    lab = await Lab.new(disks=TWO_DISKS)
    async with lab.run() as rig:
        places = {}
        for number in range(3):
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()
            places[number] = rig.index(1, number) * LINE
        await rig.write(2, 5 * LINE, page(5))
        await rig.write(1, 2 * LINE, page(9))
        await rig.cache.barrier()
        places[5] = rig.index(2, 5) * LINE
        # a record behind it says that the one before was durable
        await rig.write(1, 30 * LINE, page(30))
        await rig.cache.barrier()
        lab = lab.crash(keep_all)
    for place in (places[1], places[2], places[5]):
        lab.flip(place + 5)
    superblock = await lab.superblock()
    gone = tuple(disk if disk.id == 1 else attrs.evolve(disk, cache_uuid=None) for disk in superblock.disks)
    assert superblock.uuid == CACHE_UUID
    await lab.put_superblock(attrs.evolve(superblock, disks=gone))
    found = await inspected(lab)
    assert [(damage.kind, damage.disk, damage.line, damage.offset) for damage in found.damages] == [
        (Kind.LINE, 1, 1, places[1]),
        (Kind.OLD_LINE, 1, 2, places[2]),
        (Kind.OLD_LINE, 2, 5, places[5]),
    ]
    assert found.counts() == {"line": 1, "old-line": 2}
    assert found.damages[0].text.startswith("segment 1, block 3: line 1 of disk 1 does not match its checksum")
    for repair in (cut_log, restore_superblock):
        with pytest.raises(Invalid):
            await repair(store_of(lab), found)
