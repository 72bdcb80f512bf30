# SPDX-License-Identifier: GPL-2.0-or-later
import random
import uuid

import attrs
import pytest

from lcfs.engine.disk_format import SUPERBLOCK_COPIES, pack_superblock
from lcfs.engine.errors import AlreadyThere, Damaged, NotACacheImage, Unsuitable
from lcfs.engine.formatting import format_image, require_formattable
from lcfs.engine.geometry import LINE
from lcfs.engine.superblock import SuperblockWriter, read_superblock, read_superblocks
from lcfs.engine.tunables import defaults
from lcfs.testing import Fault, FaultStore, LogStore, MemoryStore, Operation, keep_all, keep_random, lose_all
from tests.engine.rig import Lab, page

MIB = 1 << 20
UUID_1 = uuid.UUID(int=1)


async def test_a_formatted_image_is_an_empty_clean_cache() -> None:
    store = MemoryStore.of_size(10 * MIB + 17)
    made = await format_image(store, cache_id=4, uuid=UUID_1)
    assert await read_superblock(store) == made
    assert (made.uuid, made.cache_id, made.geometry.nr_segments) == (UUID_1, 4, 9)
    assert made.clean
    assert not made.had_disk
    assert (made.tail, made.head, made.disks, made.tunables) == (1, 0, (), defaults())
    assert not (await read_superblocks(store)).damaged
    assert store.medium.durable == store.medium.live


async def test_each_cache_gets_a_uuid_of_its_own() -> None:
    made = [await format_image(MemoryStore.of_size(2 * MIB)) for _ in range(2)]
    assert made[0].uuid != made[1].uuid
    assert made[0].cache_id == 1


@pytest.mark.parametrize("size", [2 * MIB, 1 << 40])
async def test_formatting_writes_a_few_blocks_whatever_the_size(size: int) -> None:
    store = LogStore(MemoryStore.of_size(size))
    await format_image(store)
    assert store.log.count(Operation.WRITE) == 2
    assert store.log.bytes_of(Operation.WRITE) <= MIB // 4
    assert max(call.offset + call.length for call in store.log.of(Operation.WRITE)) <= MIB
    assert store.log.calls[-1].operation is Operation.FLUSH


async def test_records_of_the_former_cache_do_not_come_back() -> None:
    lab = await Lab.new()
    async with lab.run() as rig:
        await rig.write(1, 0, page(1))
        await rig.cache.barrier()
    assert len(await lab.records()) == 1
    await format_image(MemoryStore(lab.image), blocks_per_segment=8)
    assert await lab.records() == []


async def test_an_image_too_small_is_left_as_it_was() -> None:
    store = MemoryStore.of_size(2 * MIB - 1)
    await store.write(0, [b"something"])
    before = store.medium.live.copy()
    with pytest.raises(Unsuitable):
        await format_image(store)
    assert store.medium.live == before


async def test_what_is_empty_or_a_cache_may_be_formatted() -> None:
    store = MemoryStore.of_size(4 * MIB)
    await require_formattable(store)
    await store.write(2 * MIB, [b"behind the first MiB"])
    await require_formattable(store)
    made = await format_image(store)
    await require_formattable(store)
    # one copy is enough to know it
    await store.write(SUPERBLOCK_COPIES[0], [b"\xff" * LINE])
    await require_formattable(store)
    await format_image(store)
    assert (await read_superblock(store)).uuid != made.uuid


@pytest.mark.parametrize("offset", [0, 511, 4096, MIB // 2 + 5, MIB - 1])
async def test_what_holds_other_data_may_not(offset: int) -> None:
    store = MemoryStore.of_size(4 * MIB, "/img")
    await store.write(offset, [b"x"])
    with pytest.raises(AlreadyThere, match=r"/img holds data that is not an lcfs cache; .*--force /img"):
        await require_formattable(store)


async def test_a_file_smaller_than_the_superblock_area_is_judged_by_what_it_has() -> None:
    store = MemoryStore.of_size(1000)
    await require_formattable(store)
    await store.write(999, [b"x"])
    with pytest.raises(AlreadyThere):
        await require_formattable(store)


async def test_an_image_of_a_newer_version_may_not() -> None:
    store = MemoryStore.of_size(2 * MIB)
    made = await format_image(store)
    for copy in SUPERBLOCK_COPIES:
        packed = bytearray(pack_superblock(made))
        packed[8] = 2
        await store.write(copy, [packed])
    with pytest.raises(AlreadyThere):
        await require_formattable(store)


async def test_a_table_of_the_former_cache_is_not_read_along() -> None:
    lab = await Lab.new()
    old = await lab.superblock()
    await lab.put_superblock(attrs.evolve(old, disks=(attrs.evolve(old.disks[0], path="/" + "x" * 4000),)))
    store = MemoryStore(lab.image)
    made = await format_image(store, blocks_per_segment=8)
    copies = await read_superblocks(store)
    assert all(not isinstance(copy, (Damaged, NotACacheImage)) for copy in copies.copies)
    assert await read_superblock(store) == made


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_crash_while_formatting_leaves_the_former_cache_or_the_new_one(turns: int) -> None:
    """R9, however often the former cache's copies were written: never an older state of the former cache."""
    lab = await Lab.new()
    store = MemoryStore(lab.image, yields=False)
    former = await lab.superblock()
    writer = SuperblockWriter(store, former, store.flush)
    for turn in range(turns):
        wanted = attrs.evolve(former, tail=2 + turn)
        former = await writer.commit(lambda wanted=wanted: wanted)  # type: ignore[misc]
    new = uuid.UUID(int=7)
    seen = set()
    for nth in range(2):
        for choose in (lose_all, keep_all, *(keep_random(random.Random(seed)) for seed in range(30))):
            crashed = lab.crash()
            flush = Fault(Operation.FLUSH, skip=nth)
            with pytest.raises(OSError, match="injected"):
                await format_image(FaultStore(MemoryStore(crashed.image), flush), uuid=new, blocks_per_segment=8)
            found = await crashed.crash(choose).superblock()
            seen.add(found.uuid)
            assert found == former or (found.uuid == new and found.disks == ())
    assert seen == {former.uuid, new}
