# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from crc32c import crc32c

from lcfs.engine.disk_format import SUPERBLOCK_COPIES, DiskEntry, Superblock, pack_superblock
from lcfs.engine.errors import Damaged, LcfsError, NewerVersion, NotACacheImage
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import LINE
from lcfs.engine.superblock import SuperblockWriter, read_superblock, read_superblocks
from lcfs.testing import DelayStore, Effect, Fault, FaultStore, LogStore, MemoryStore, Operation, lose_all

MIB = 1 << 20
INTACT, NEVER_WRITTEN, NEWER, BROKEN = "intact", "never written", "newer", "broken"


async def image(size: int = 2 * MIB) -> tuple[MemoryStore, Superblock]:
    store = MemoryStore.of_size(size, "/ssd.img")
    return store, await format_image(store)


async def spoil(store: MemoryStore, copy: int, how: str) -> None:
    offset = SUPERBLOCK_COPIES[copy]
    if how == NEVER_WRITTEN:
        await store.write(offset, [bytes(LINE)])
    elif how == NEWER:
        length = int.from_bytes(store.medium.live.read(offset + 12, 4), "little")
        packed = bytearray(store.medium.live.read(offset, -(-length // LINE) * LINE))
        packed[8] = 9
        packed[16:20] = bytes(4)
        packed[16:20] = crc32c(packed).to_bytes(4, "little")
        await store.write(offset, [packed])
    elif how == BROKEN:
        await store.write(offset + 30, [b"\x77"])


async def test_the_valid_copy_with_the_higher_sequence_counts() -> None:
    store, made = await image()
    for sequence, tail in ((3, 5), (4, 6), (5, 7)):
        packed = pack_superblock(attrs.evolve(made, sequence=sequence, tail=tail))
        await store.write(SUPERBLOCK_COPIES[sequence % 2], [packed])
        assert (await read_superblock(store)).tail == tail


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("how", [NEVER_WRITTEN, BROKEN])
async def test_one_damaged_copy_leaves_the_other(copy: int, how: str) -> None:
    store, made = await image()
    await spoil(store, copy, how)
    copies = await read_superblocks(store)
    assert copies.damaged == (copy,)
    found = copies.best("/ssd.img")
    assert found.uuid == made.uuid
    assert found.sequence == (1, 2)[copy]


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("bit", range(8 * 20))
async def test_one_wrong_bit_in_one_copy_leaves_the_other(copy: int, bit: int) -> None:
    """The version too counts only when the checksum fits."""
    store, made = await image()
    offset = SUPERBLOCK_COPIES[copy] + bit // 8
    byte = store.medium.live.read(offset, 1)[0]
    await store.write(offset, [bytes([byte ^ 1 << bit % 8])])
    assert (await read_superblock(store)).uuid == made.uuid


@pytest.mark.parametrize(
    ("first", "second", "error", "sentence"),
    [
        (NEVER_WRITTEN, NEVER_WRITTEN, NotACacheImage, "/ssd.img is not an lcfs cache image and is left as it is"),
        (BROKEN, BROKEN, Damaged, r"/ssd.img: both superblocks are damaged \(.*\); restore the image from a copy"),
        (NEVER_WRITTEN, BROKEN, Damaged, "both superblocks are damaged"),
        (BROKEN, NEVER_WRITTEN, Damaged, "both superblocks are damaged"),
        (NEWER, NEWER, NewerVersion, "/ssd.img: format version 9 is newer than 1"),
        (NEWER, BROKEN, NewerVersion, "version 9"),
        (BROKEN, NEWER, NewerVersion, "version 9"),
        (NEVER_WRITTEN, NEWER, NewerVersion, "version 9"),
        (NEWER, INTACT, NewerVersion, "version 9"),
        (INTACT, NEWER, NewerVersion, "version 9"),
    ],
)
async def test_two_copies_have_one_verdict(first: str, second: str, error: type[Exception], sentence: str) -> None:
    store, _ = await image()
    await spoil(store, 0, first)
    await spoil(store, 1, second)
    with pytest.raises(error, match=sentence):
        await read_superblock(store)


@pytest.mark.parametrize("size", [1, 511, 4096, MIB - 1, MIB, 2 * MIB - 1, 2 * MIB])
async def test_a_file_of_any_size_without_magic_is_no_image(size: int) -> None:
    with pytest.raises(NotACacheImage):
        await read_superblock(MemoryStore.of_size(size, "/f"))


@pytest.mark.parametrize("size", [MIB, MIB + 4096, 2 * MIB - 1, 4 * MIB - 1])
async def test_an_image_cut_off_behind_its_superblocks_is_truncated(size: int) -> None:
    store, _ = await image(4 * MIB)
    store.medium.resize(size)
    with pytest.raises(Damaged, match="it was truncated"):
        await read_superblock(MemoryStore(store.medium, "/ssd.img"))


async def test_an_image_that_grew_is_what_it_was() -> None:
    store, made = await image()
    store.medium.resize(8 * MIB)
    assert await read_superblock(MemoryStore(store.medium)) == made


async def test_a_table_of_many_blocks_is_read_completely() -> None:
    store, made = await image()
    rows = tuple(DiskEntry(number, made.uuid, 4096, "/" + "p" * 1900, f"disk{number}", None) for number in range(1, 255))
    many = attrs.evolve(made, disks=rows, sequence=9)
    await store.write(SUPERBLOCK_COPIES[1], [pack_superblock(many)])
    assert await read_superblock(store) == many


@pytest.mark.parametrize("copy", [0, 1])
async def test_a_copy_that_cannot_be_read_leaves_the_other(copy: int) -> None:
    store, made = await image()
    copies = await read_superblocks(FaultStore(store, Fault(Operation.READ, skip=copy)))
    assert copies.damaged == (copy,)
    assert copies.best("/ssd.img").uuid == made.uuid


async def test_an_image_that_cannot_be_read_says_so() -> None:
    store, _ = await image()
    with pytest.raises(LcfsError, match=r"/ssd.img"):
        await read_superblock(FaultStore(store, Fault(Operation.READ, times=None)))


# Commits


def writer_of(store: FaultStore | LogStore | DelayStore | MemoryStore, made: Superblock) -> SuperblockWriter:
    return SuperblockWriter(store, made, store.flush)


async def test_commits_alternate_and_never_touch_the_copy_in_force() -> None:
    store, made = await image()
    logged = LogStore(store)
    writer = writer_of(logged, made)
    in_force = SUPERBLOCK_COPIES[made.sequence % 2]
    for tail in range(2, 6):
        committed = await writer.commit(lambda tail=tail: attrs.evolve(made, tail=tail))  # type: ignore[misc]
        (write,) = logged.log.of(Operation.WRITE)
        assert write.offset != in_force
        assert logged.log.calls[-1].operation is Operation.FLUSH
        in_force = write.offset
        logged.log.clear()
        assert committed == writer.current == await read_superblock(store)
        assert committed.tail == tail
    assert not (await read_superblocks(store)).damaged


async def test_both_puts_it_in_both_copies_one_after_the_other() -> None:
    store, made = await image()
    logged = LogStore(store)
    await writer_of(logged, made).commit(lambda: attrs.evolve(made, tail=8), both=True)
    assert [call.operation for call in logged.log.calls] == [Operation.WRITE, Operation.FLUSH] * 2
    assert {call.offset for call in logged.log.of(Operation.WRITE)} == set(SUPERBLOCK_COPIES)
    assert [copy.tail for copy in (await read_superblocks(store)).copies if isinstance(copy, Superblock)] == [8, 8]


@pytest.mark.parametrize("effect", [Effect.ERROR, Effect.SHORT])
async def test_a_commit_that_fails_leaves_the_one_before_and_is_repeated_in_place(effect: Effect) -> None:
    store, made = await image()
    faulty = FaultStore(store)
    writer = writer_of(faulty, made)
    fault = faulty.add(Fault(Operation.WRITE, effect))
    with pytest.raises(OSError, match="injected"):
        await writer.commit(lambda: attrs.evolve(made, tail=9))
    assert fault.met == 1
    assert writer.current == made
    assert (await read_superblock(store)).tail in (1, 9)
    committed = await writer.commit(lambda: attrs.evolve(made, tail=10))
    assert committed.sequence == made.sequence + 1
    assert await read_superblock(store) == committed
    assert not (await read_superblocks(store)).damaged


async def test_a_commit_torn_at_any_sector_leaves_the_one_before_or_itself() -> None:
    store, made = await image()
    rows = tuple(DiskEntry(number, made.uuid, 4096, "/p", "n", None) for number in range(1, 160))
    wanted = attrs.evolve(made, tail=9, disks=rows)
    at_the_flush = store.medium
    writer = SuperblockWriter(store, made, trio.lowlevel.checkpoint)
    await writer.commit(lambda: wanted)
    (write,) = at_the_flush.unsynced.writes
    nr = write.nr_sectors
    masks = [(1 << cut) - 1 for cut in range(nr + 1)]
    masks += [mask for sector in range(nr) for mask in (1 << sector, (1 << nr) - 1 - (1 << sector))]
    outcomes = set()
    for mask in masks:
        crashed = at_the_flush.crash(lambda writes, mask=mask: [mask])  # type: ignore[misc]
        outcomes.add((await read_superblock(MemoryStore(crashed, yields=False))).tail)
    assert outcomes == {1, 9}


async def test_what_is_committed_is_what_holds_when_its_turn_comes(autojump_clock: trio.testing.MockClock) -> None:
    """A commit that waits for another never writes what was true before that one."""
    store, made = await image()
    tail = 1
    writer = writer_of(DelayStore(store, writes=0.01), made)

    async def commit(value: int) -> None:
        nonlocal tail
        tail = value
        await writer.commit(lambda: attrs.evolve(made, tail=tail))

    async with trio.open_nursery() as nursery:
        for value in range(2, 10):
            nursery.start_soon(commit, value)
    assert (await read_superblock(store)).tail == tail
    assert writer.current.sequence == made.sequence + 8


async def test_nothing_is_in_force_before_its_flush() -> None:
    store, made = await image()
    flush = Fault(Operation.FLUSH, Effect.HANG)
    writer = writer_of(FaultStore(store, flush), made)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.commit, lambda: attrs.evolve(made, tail=9))
        await trio.testing.wait_all_tasks_blocked()
        assert writer.current == made
        assert (await read_superblock(MemoryStore(store.medium.crash(lose_all)))).tail == 1
        flush.release()
    assert writer.current.tail == 9
    assert (await read_superblock(MemoryStore(store.medium.crash(lose_all)))).tail == 9


async def test_a_commit_that_began_is_not_called_off(autojump_clock: trio.testing.MockClock) -> None:
    """Left half done in a thread, it could overwrite a later one."""
    store, made = await image()
    writer = writer_of(DelayStore(store, writes=1, flushes=1), made)
    with trio.move_on_after(0.5):
        await writer.commit(lambda: attrs.evolve(made, tail=9), both=True)
    assert writer.current.tail == 9
    assert [copy.tail for copy in (await read_superblocks(store)).copies if isinstance(copy, Superblock)] == [9, 9]
