# SPDX-License-Identifier: GPL-2.0-or-later
"""Scrub: what it finds, what it leaves alone, and what moves under it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock as Clock
from trio.testing import wait_all_tasks_blocked

from lcfs.engine.errors import Failed, InUse
from lcfs.engine.file_store import FileStorage
from lcfs.engine.geometry import LINE
from lcfs.engine.lookup import anonymous
from lcfs.testing import Effect, Fault, Operation
from tests.engine.rig import Lab, Rig, page
from tests.plugins.log_check import ExpectLog

TWO_DISKS = {1: 64 * LINE, 2: 64 * LINE}


WELL = "0 dirty lines damaged, 0 unreadable, 0 clean lines forgotten, 0 records damaged"


async def scrub(rig: Rig) -> str:
    """A whole pass; how it went."""
    rig.cache.scrub.start()
    await ended(rig)
    rig.check_counts()
    return rig.cache.scrub.text


async def ended(rig: Rig) -> None:
    with trio.fail_after(1000):
        await rig.cache.scrub.wait()


async def on_the_image(rig: Rig, disk: int, line: int, count: int = 1) -> None:
    """Lines that are dirty and on the image, in a segment of their own."""
    await rig.write(disk, line * LINE, page(line, count))
    await rig.cache.barrier()
    rig.cache.close_segment()
    await wait_all_tasks_blocked()


async def test_it_begins_idle_and_finds_nothing_on_a_fresh_cache(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        assert rig.cache.scrub.text == "idle"
        assert (await scrub(rig)).startswith("finished 0 of 0 segments, 0 lines; 0 dirty lines damaged")
        assert rig.log.calls == []


async def test_good_lines_are_read_and_left_as_they_are(autojump_clock: Clock) -> None:
    """Lines that are clean, dirty, dirty in part, overtaken; the open segment is in RAM and not read."""
    async with Rig.running(nowait=False) as rig:
        await on_the_image(rig, 1, 0, 7)
        await rig.cache.drop_caches()
        await on_the_image(rig, 1, 10, 3)
        await rig.write(1, 20 * LINE, page(20)[:512])
        await rig.write(1, 10 * LINE, page(99))
        await rig.cache.barrier()
        rig.cache.close_segment()
        await rig.write(1, 30 * LINE, page(30))
        rig.log.clear()
        assert await scrub(rig) == f"finished 4 of 4 segments, 11 lines; {WELL}"
        assert rig.written() == rig.written("disk1") == []
        assert (rig.cache.state, rig.cache.crc_errors) == ("running", 0)


@pytest.mark.parametrize("bad", range(7))
async def test_a_damaged_clean_line_is_forgotten_and_the_backing_serves_it(
    bad: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log(f"line {bad} of disk 1 is damaged on image; it is clean, the backing serves it")
    async with Rig.running() as rig:
        await on_the_image(rig, 1, 0, 7)
        await rig.cache.drop_caches()
        rig.lab.flip(rig.index(1, bad) * LINE + 77)
        assert "7 lines; 0 dirty lines damaged, 0 unreadable, 1 clean lines forgotten" in await scrub(rig)
        assert rig.index(1, bad) == 0
        assert (rig.cache.state, rig.cache.crc_errors) == ("running", 1)
        rig.log.clear()
        assert await rig.read(1, 0, 7 * LINE) == page(0, 7)
        assert "6 lines; 0 dirty lines damaged, 0 unreadable, 0 clean lines forgotten" in await scrub(rig)


async def test_a_damaged_dirty_line_is_eio_and_never_migrated(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("line 2 of disk 1 is damaged on image")
    async with Rig.running() as rig:
        await on_the_image(rig, 1, 0, 4)
        rig.lab.flip(rig.index(1, 2) * LINE + 77)
        assert "4 lines; 1 dirty lines damaged" in await scrub(rig)
        assert rig.cache.state.startswith("degraded 1 damaged lines on image")
        with pytest.raises(Failed, match="line 2 of disk 1 is damaged") as caught:
            await rig.read(1, 2 * LINE, LINE)
        assert caught.value.errno == errno.EIO
        with pytest.raises(Failed, match="are damaged and cannot be written back"):
            await rig.cache.drop_caches()
        assert rig.backing(1, 0, 4 * LINE) == page(0, 4)[: 2 * LINE] + bytes(LINE) + page(0, 4)[3 * LINE :]
        await rig.write(1, 2 * LINE, page(5))
        assert rig.cache.state == "running"
        await rig.cache.drop_caches()
        assert "0 dirty lines damaged" in await scrub(rig)


async def test_a_line_that_cannot_be_read_is_not_damaged(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    async with Rig.running() as rig:
        await on_the_image(rig, 1, 0, 4)
        place = rig.index(1, 2) * LINE
        fault = rig.image.add(Fault(Operation.READ, start=place, end=place + LINE, times=None))
        assert "4 lines; 0 dirty lines damaged, 1 unreadable" in await scrub(rig)
        assert rig.cache.state.startswith("degraded 1 lines cannot be read from image")
        assert rig.cache.crc_errors == 0
        fault.release()
        assert "0 unreadable" in await scrub(rig)
        assert rig.cache.state == "running"
        await rig.cache.drop_caches()
        assert rig.backing(1, 0, 4 * LINE) == page(0, 4)


async def test_a_bit_that_was_wrong_once_does_not_count(autojump_clock: Clock) -> None:
    async with Rig.running() as rig:
        await on_the_image(rig, 1, 0, 4)
        rig.image.add(Fault(Operation.READ, Effect.CORRUPT))
        assert "4 lines; 0 dirty lines damaged, 0 unreadable, 0 clean lines forgotten, 0 records" in await scrub(rig)
        assert (rig.cache.state, rig.cache.crc_errors) == ("running", 0)


@pytest.mark.parametrize("record", [0, 1, 2])
async def test_a_damaged_record_header_is_found_while_it_can_be_mended(
    record: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    """The next mount would stop there; writing everything back makes it needless."""
    expect_log("the record at segment 1, block .* of image is damaged; drop_caches mends that")
    lab = await Lab.new(blocks=12)
    async with lab.run(clean=True) as rig:
        for number in range(3):
            await rig.write(1, number * LINE, page(number))
            await rig.cache.barrier()
        rig.cache.close_segment()
        await wait_all_tasks_blocked()
        rig.lab.flip((rig.index(1, record) - 1) * LINE + 9)
        assert (await scrub(rig)).endswith(
            "3 lines; 0 dirty lines damaged, 0 unreadable, 0 clean lines forgotten, 1 records damaged"
        )
        assert rig.cache.state.startswith("degraded damaged log records on image; write 1 to drop_caches before")
        await rig.cache.drop_caches()
        assert rig.cache.state == "running"
        assert "0 records damaged" in await scrub(rig)
    async with lab.run() as rig:
        assert await rig.read(1, 0, 3 * LINE) == b"".join(page(number) for number in range(3))


async def test_recovered_segments_are_no_damage(autojump_clock: Clock) -> None:
    lab = await Lab.new(disks=TWO_DISKS, blocks=12)
    async with lab.run() as rig:
        for number in range(5):
            await rig.write(1 + number % 2, number * LINE, page(number))
            await rig.cache.barrier()
        lab = lab.crash(lambda writes: [False] * len(writes) if isinstance(writes, list) else writes)
    for missing in ((), (2,)):
        async with lab.run(missing=missing) as rig:
            await rig.write(1, 40 * LINE, page(40))
            await rig.cache.barrier()
            assert (await scrub(rig)).endswith("0 records damaged")
            assert rig.cache.state == "running"
            lab = rig.lab


async def test_one_at_a_time_and_it_can_be_stopped(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await on_the_image(rig, 1, 0, 7)
        await on_the_image(rig, 1, 10, 7)
        rig.image.delay.reads = 5.0
        rig.cache.scrub.start()
        await trio.sleep(1)
        assert rig.cache.scrub.text.startswith("running 0 of 2 segments")
        with pytest.raises(InUse, match="a scrub is under way"):
            rig.cache.scrub.start()
        rig.cache.scrub.stop()
        await wait_all_tasks_blocked()
        assert rig.cache.scrub.text.startswith("stopped 0 of 2 segments")
        rig.cache.scrub.stop()
        rig.image.delay.reads = 0.0
        assert (await scrub(rig)).startswith("finished 2 of 2 segments, 14 lines")


async def test_it_never_reads_while_requests_wait_for_the_image(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False, segments=8) as rig:
        for number in range(4):
            await on_the_image(rig, 1, 10 * number, 7)
        rig.log.clear()
        hang = rig.image.add(Fault(Operation.READ, Effect.HANG, times=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.read, 1, 0, LINE)
            await wait_all_tasks_blocked()
            rig.cache.scrub.start()
            await trio.sleep(100)
            assert len(rig.log.of(Operation.READ, "image")) <= 1, "only the reader's own"
            assert rig.cache.scrub.text.startswith("running 0 of 4 segments")
            hang.release()
        await ended(rig)
        assert rig.cache.scrub.text.startswith("finished 4 of 4 segments, 28 lines")


async def test_dirty_segments_come_first(autojump_clock: Clock) -> None:
    async with Rig.running(nowait=False) as rig:
        await on_the_image(rig, 1, 0, 7)
        await rig.cache.drop_caches()
        await on_the_image(rig, 1, 10, 7)
        await on_the_image(rig, 1, 20, 7)
        rig.log.clear()
        await scrub(rig)
        blocks = [call.offset // LINE for call in rig.log.of(Operation.READ, "image")]
        assert blocks == [rig.index(1, 10) - 1, rig.index(1, 20) - 1, rig.index(1, 0) - 1]


@pytest.mark.parametrize("what", ["overwritten", "migrated", "slot taken again", "disk released"])
async def test_what_moves_during_a_read_is_no_damage(what: str, autojump_clock: Clock) -> None:
    """The read is answered late, and with bytes that do not fit any more."""
    async with Rig.running(nowait=False, segments=4) as rig:
        await on_the_image(rig, 1, 0, 7)
        hang = rig.image.add(Fault(Operation.READ, Effect.HANG, times=1))
        rig.cache.scrub.start()
        await wait_all_tasks_blocked()
        place = rig.index(1, 3) * LINE
        if what == "overwritten":
            rig.image.add(Fault(Operation.READ, Effect.CORRUPT, start=place, end=place + LINE, times=1))
            await rig.write(1, 0, page(50, 7))
        elif what == "disk released":
            await rig.cache.drain(rig.devices[1])
            rig.cache.release(rig.devices[1])
        else:
            await rig.cache.drop_caches()
            for number in range(28 if what == "slot taken again" else 0):
                await rig.write(1, number * LINE, page(100 + number))
            await rig.cache.barrier()
        hang.release()
        await ended(rig)
        assert rig.cache.scrub.text.endswith(WELL)
        assert (rig.cache.state, rig.cache.crc_errors) == ("running", 0)


async def test_a_hung_image_does_not_keep_the_cache_from_stopping(autojump_clock: Clock) -> None:
    lab = await Lab.new()
    async with lab.run(nowait=False, clean=True) as rig:
        await on_the_image(rig, 1, 0, 7)
        rig.image.add(Fault(Operation.READ, Effect.HANG, times=None))
        rig.cache.scrub.start()
        await trio.sleep(1)
    assert (await lab.superblock()).clean


# Files


async def test_the_medium_is_read_and_not_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(16 * LINE))
    store = await FileStorage().open(str(path))
    buffer = memoryview(anonymous(4 * LINE))
    await store.readinto_uncached(2 * LINE, buffer)
    assert bytes(buffer) == path.read_bytes()[2 * LINE : 6 * LINE]
    await store.write(3 * LINE, [b"x" * LINE])
    await store.readinto_uncached(3 * LINE, buffer[:LINE])
    assert bytes(buffer[:LINE]) == b"x" * LINE, "what was written and not synced yet is seen, too"
    with pytest.raises(OSError) as caught:
        await store.readinto_uncached(14 * LINE, buffer)
    assert caught.value.errno == errno.EIO
    await store.close()
    with pytest.raises(OSError):
        await store.readinto_uncached(0, buffer)
