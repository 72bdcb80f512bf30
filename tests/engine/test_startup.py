# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing up a mount: what is made, what comes back, and what is refused without a trace."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio.testing
from crc32c import crc32c

from lcfs.engine.block_store import Label
from lcfs.engine.disk_format import SUPERBLOCK_COPIES, pack_superblock
from lcfs.engine.errors import (
    AlreadyThere,
    Damaged,
    Failed,
    InUse,
    Invalid,
    LcfsError,
    Missing,
    NewerVersion,
    NoSpace,
    NoSuchThing,
    NotACacheImage,
    NotPermitted,
    Unsuitable,
    WrongDisk,
)
from lcfs.engine.file_store import FileStorage
from lcfs.engine.geometry import LINE
from lcfs.engine.manager import open_manager
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.testing import Fault, Operation, keep_all, lose_all
from tests.engine.bench import DISK, MIB, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

Clock = trio.testing.MockClock
ONE = DeviceSpec("/one", size=DISK)
TWO = DeviceSpec("/two", size=DISK)


# What a mount makes


async def test_a_mount_on_nothing_makes_an_image_and_a_disk_and_says_so(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/srv/ssd.img", default_disk=True, cache_size=256 * MIB) as manager:
        assert list(manager.caches) == [1]
        assert manager.caches[1].nr_segments == 255
        (disk,) = manager.devices.values()
        assert (disk.id, disk.name, disk.path, disk.size, disk.cache_id) == (1, "disk1", "/srv/ssd.disk1.img", 1 << 30, 1)
        assert disk.state == "running"
        await write(disk, 5 * LINE, page(1))
        await disk.flush()
    assert bench.said == [
        "created cache 1: /srv/ssd.img, 256 MiB, sparse",
        "created disk 1: /srv/ssd.disk1.img, 1 GiB, sparse",
    ]
    assert bench.nothing_is_open()


async def test_the_same_mount_brings_everything_back(autojump_clock: Clock) -> None:
    bench = Bench()
    devices = (DeviceSpec("/one", id=3, size=DISK, name="three"), DeviceSpec("/two", size=DISK, cache=0))
    async with bench.mount(devices=devices) as manager:
        uuids = {number: device.uuid for number, device in manager.devices.items()}
        await manager.set_migrate_threshold(manager.devices[3], 5)
        await manager.caches[1].set_tunable("barrier_deadline_ms", 7)
        await write(manager.devices[3], LINE, page(1))
        await write(manager.devices[1], LINE, page(2))
    for again in ((), devices):
        bench.said.clear()
        async with bench.mount(devices=again) as manager:
            assert bench.said == []
            found = {d.id: (d.name, d.path, d.size, d.cache_id, d.migrate_threshold) for d in manager.devices.values()}
            assert found == {1: ("disk1", "/two", DISK, 0, 70), 3: ("three", "/one", DISK, 1, 5)}
            assert {number: device.uuid for number, device in manager.devices.items()} == uuids
            assert manager.caches[1].tunables["barrier_deadline_ms"] == 7
            assert await read(manager.devices[3], LINE, LINE) == page(1)
            assert await read(manager.devices[1], LINE, LINE) == page(2)


async def test_after_a_crash_too(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        await manager.devices[1].flush()
        after = Bench(bench.storage.crash(lose_all))
    async with after.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)


async def test_the_default_disk_is_made_only_for_an_image_that_never_had_one(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(default_disk=True) as manager:
        await manager.remove(1)
    assert "/ssd.disk1.img" in bench.storage.media
    for _ in range(2):
        async with bench.mount(default_disk=True) as manager:
            assert manager.devices == {}


async def test_the_default_disk_is_not_made_beside_one_that_is_named(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,), default_disk=True) as manager:
        assert [device.path for device in manager.devices.values()] == ["/one"]


async def test_a_blank_file_where_the_default_disk_belongs_is_what_a_crash_left_of_it(tmp_path: Path) -> None:
    backing = tmp_path / "ssd.disk1.img"
    with backing.open("wb") as file:
        file.truncate(1 << 30)
    spec = MountSpec((CacheSpec(str(tmp_path / "ssd.img")),), cache_size=2 * MIB)
    async with open_manager(spec, FileStorage()) as manager:
        assert manager.devices[1].path == str(backing)
        assert manager.devices[1].state == "running"


async def test_no_disk_is_made_beside_a_block_device(autojump_clock: Clock) -> None:
    bench = Bench()
    await bench.image("/dev/nvme9n1")
    async with bench.mount("/dev/nvme9n1", default_disk=True) as manager:
        assert manager.devices == {}
    assert bench.said == ["there is no disk yet; make one with `lcfs device create`"]


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_any_other_file_there_is_not_taken_for_it(content: bytes, autojump_clock: Clock) -> None:
    bench = Bench()
    medium = bench.storage.add("/ssd.disk1.img", (1 << 30) if content else DISK)
    medium.live.write(0, content)
    with pytest.raises(
        AlreadyThere, match=r"/ssd.disk1.img already exists and /ssd.img does not know it; name it with --device"
    ):
        async with bench.mount(default_disk=True):
            pass
    assert list(bench.storage.media) == ["/ssd.disk1.img"]


async def test_new_disks_go_to_the_first_cache_or_the_one_they_name_or_none(autojump_clock: Clock) -> None:
    bench = Bench()
    devices = (
        DeviceSpec("/a", size=DISK),
        DeviceSpec("/b", size=DISK, cache=9),
        DeviceSpec("/c", size=DISK, cache=0),
        DeviceSpec("/d", size=DISK, cache=1),
    )
    async with bench.mount(CacheSpec("/nine.img", id=9), "/one.img", devices=devices) as manager:
        assert list(manager.caches) == [1, 9]
        assert {device.path: device.cache_id for device in manager.devices.values()} == {"/a": 9, "/b": 9, "/c": 0, "/d": 1}
        assert list(manager.devices) == [1, 2, 3, 4]


async def test_an_existing_file_becomes_a_disk_as_it_is(autojump_clock: Clock) -> None:
    bench = Bench()
    medium = bench.storage.add("/old", 5 * LINE + 700)
    medium.live.write(100, b"content")
    async with bench.mount(devices=(DeviceSpec("/old"),)) as manager:
        assert manager.devices[1].size == 5 * LINE + 512
        assert await read(manager.devices[1], 100, 7) == b"content"


async def test_ids_of_caches_are_given_remembered_or_the_lowest_free(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(CacheSpec("/a.img", id=5), "/b.img", "/c.img") as manager:
        assert {number: cache.path for number, cache in manager.caches.items()} == {1: "/b.img", 2: "/c.img", 5: "/a.img"}
    async with bench.mount("/c.img", "/a.img") as manager:
        assert {number: cache.path for number, cache in manager.caches.items()} == {2: "/c.img", 5: "/a.img"}
    async with bench.mount(CacheSpec("/c.img", id=5), "/a.img") as manager:
        assert {number: cache.path for number, cache in manager.caches.items()} == {1: "/a.img", 5: "/c.img"}


# Images that are refused


async def prepare(bench: Bench) -> None:
    """A cache with a disk and a dirty line, stopped cleanly."""
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))


def put(bench: Bench, path: str, offset: int, data: bytes) -> None:
    medium = bench.storage.media[path]
    medium.live.write(offset, data)
    medium.durable.write(offset, data)


def no_cache(bench: Bench) -> None:
    put(bench, "/ssd.img", 0, b"\xeb\x63\x90GRUB")
    put(bench, "/ssd.img", MIB // 2, bytes(LINE))


def half_the_size(bench: Bench) -> None:
    bench.storage.media["/ssd.img"].resize(3 * MIB // 2)


def below_the_superblocks(bench: Bench) -> None:
    bench.storage.media["/ssd.img"].resize(MIB - 512)


def empty(bench: Bench) -> None:
    bench.storage.media["/ssd.img"].resize(0)


def both_damaged(bench: Bench) -> None:
    for copy in SUPERBLOCK_COPIES:
        put(bench, "/ssd.img", copy + 64, b"\xff\xff")


async def newer(bench: Bench) -> None:
    packed = bytearray(pack_superblock(await bench.superblock()))
    packed[8] = 2
    packed[16:20] = bytes(4)
    packed[16:20] = crc32c(packed).to_bytes(4, "little")
    for copy in SUPERBLOCK_COPIES:
        put(bench, "/ssd.img", copy, bytes(packed))


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (no_cache, NotACacheImage, r"/ssd.img is not an lcfs cache image and is left as it is; give another file"),
        (half_the_size, Damaged, "it was truncated"),
        (below_the_superblocks, NotACacheImage, "/ssd.img is not an lcfs cache image"),
        (empty, Unsuitable, "/ssd.img is empty"),
        (both_damaged, Damaged, r"/ssd.img: both superblocks are damaged"),
    ],
)
async def test_an_image_that_is_none_is_refused_and_left_as_it_is(
    spoil: Callable[[Bench], None], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    await prepare(bench)
    spoil(bench)
    await refused(bench, error, sentence)


async def refused(
    bench: Bench, error: type[LcfsError], sentence: str, *caches: str | CacheSpec, devices: tuple[DeviceSpec, ...] = ()
) -> None:
    """The mount is refused for the reason, and nothing was made, changed or kept open."""
    before = bench.snapshot()
    with pytest.raises(error, match=sentence) as caught:
        async with bench.mount(*caches, devices=devices):
            pass
    assert type(caught.value) is error
    assert bench.snapshot() == before
    assert bench.nothing_is_open()


async def test_an_image_of_a_newer_version_is_left_to_newer_code(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    await newer(bench)
    await refused(bench, NewerVersion, "/ssd.img: format version 2 is newer than 1, .*; use a newer lcfs")


@pytest.mark.parametrize("copy", [0, 1])
async def test_one_damaged_superblock_is_told_and_the_other_used(
    copy: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("the superblock that is left is older than the log", at_least=0)
    bench = Bench()
    await prepare(bench)
    put(bench, "/ssd.img", SUPERBLOCK_COPIES[copy] + 70, b"\xff")
    async with bench.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)
    assert any(
        f"superblock copy {copy} is damaged" in sentence and "the other one is used" in sentence for sentence in bench.said
    )


@pytest.mark.parametrize("copy", [0, 1])
async def test_one_superblock_that_cannot_be_read_leaves_the_other(
    copy: int, autojump_clock: Clock, expect_log: ExpectLog
) -> None:
    expect_log("the superblock that is left is older than the log", at_least=0)
    bench = Bench()
    await prepare(bench)
    bench.fault("/ssd.img", Fault(Operation.READ, start=copy * MIB // 2, end=copy * MIB // 2 + LINE, times=None))
    async with bench.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)
    assert any(f"superblock copy {copy} is damaged" in said for said in bench.said)


async def test_two_superblocks_that_cannot_be_read_are_an_error_with_a_name(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.fault("/ssd.img", Fault(Operation.READ, times=None))
    await refused(bench, Failed, "/ssd.img cannot be read")


async def test_a_hole_in_the_log_is_refused(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    put(bench, "/ssd.img", MIB + 130, b"\xff")
    await refused(bench, Damaged, "/ssd.img: the log record at segment 1, block 0 was durable and is damaged")


async def test_an_image_that_another_has_open_is_in_use(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)):
        with pytest.raises(InUse, match=r"/ssd.img is in use") as caught:
            async with bench.mount():
                pass
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(InUse, match="/one is in use"):
            async with bench.mount("/other.img", devices=(DeviceSpec("/one"),)):
                pass
        assert "/other.img" not in bench.storage.media


@pytest.mark.parametrize("size", [1, 2 * MIB - 1, (16 << 40) + 1])
async def test_an_image_is_not_made_in_an_impossible_size(size: int, autojump_clock: Clock) -> None:
    await refused(Bench(), Invalid, f"a cache of {size} bytes is not possible", CacheSpec("/new.img", size=size))


async def test_an_image_given_twice(autojump_clock: Clock) -> None:
    bench = Bench()
    await refused(bench, AlreadyThere, "/a/../ssd.img is given twice", "/ssd.img", "/a/../ssd.img")
    await bench.image()
    await refused(bench, AlreadyThere, "is given twice", "/ssd.img", "/ssd.img")


async def test_an_image_and_a_copy_of_it(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.storage.media["/copy.img"] = bench.storage.media["/ssd.img"].crash(keep_all)
    await refused(bench, AlreadyThere, "/copy.img is a copy of /ssd.img; mount one of them only", "/ssd.img", "/copy.img")


@pytest.mark.parametrize("number", [0, 255, -1])
async def test_impossible_ids(number: int, autojump_clock: Clock) -> None:
    await refused(Bench(), Invalid, f"cache id {number} is not possible", CacheSpec("/new.img", id=number))
    await refused(Bench(), Invalid, f"disk id {number} is not possible", devices=(DeviceSpec("/one", id=number),))


async def test_two_caches_of_one_id(autojump_clock: Clock) -> None:
    await refused(Bench(), AlreadyThere, "two caches are given the same id", CacheSpec("/a", id=2), CacheSpec("/b", id=2))


# Disks that are refused


@pytest.mark.parametrize(
    ("devices", "error", "sentence"),
    [
        ((DeviceSpec("/ssd.img"),), Invalid, "/ssd.img is given as cache image and as disk"),
        ((DeviceSpec("/x/../ssd.img", size=DISK),), Invalid, "as cache image and as disk"),
        ((ONE, DeviceSpec("/x/../one", size=DISK)), AlreadyThere, "/one is given as two disks"),
        ((DeviceSpec("/a", id=7), DeviceSpec("/b", id=7)), AlreadyThere, "two disks are given the id 7"),
        ((DeviceSpec("/a", size=1000),), Invalid, "a disk of 1000 bytes is not possible"),
        ((DeviceSpec("/a", size=0),), Invalid, "a disk of 0 bytes is not possible"),
        ((DeviceSpec("/a", name="x/y"),), Invalid, "is no name for a disk"),
        ((DeviceSpec("/a", cache=4),), NoSuchThing, "/a is to be attached to cache 4, which is not mounted here"),
        ((DeviceSpec("/tiny"),), Unsuitable, "/tiny has 511 bytes, less than a sector"),
        ((DeviceSpec("/old", size=DISK + 512),), Unsuitable, "/old has .* bytes, less than the .* asked for"),
        ((DeviceSpec("/none"),), Unsuitable, "/none is empty"),
    ],
)
async def test_disks_that_cannot_be(
    devices: tuple[DeviceSpec, ...], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    bench.storage.add("/tiny", 511)
    bench.storage.add("/old", DISK)
    bench.storage.add("/none", 0)
    # together with things that would have been made
    await refused(bench, error, sentence, devices=(DeviceSpec("/fine", size=DISK), *devices))
    await bench.image()
    await refused(bench, error, sentence, devices=devices)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        (DeviceSpec("/one", id=2), "/one is disk 1 in this cache, not 2; leave the id out"),
        (DeviceSpec("/one", size=DISK - 512), "disk 1 has .* bytes in this cache, not .*; leave the size out"),
        (DeviceSpec("/one", name="other"), "disk 1 is called 'disk1' in this cache"),
        (DeviceSpec("/one", cache=0), "disk 1 is attached to cache 1, not 0; mount first, then detach and attach"),
        (DeviceSpec("/two", id=1, size=DISK), "disk 1 is /one in this cache, not /two; give the new disk another id"),
    ],
)
async def test_a_disk_that_contradicts_the_table_refuses_the_mount(
    device: DeviceSpec, sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    await prepare(bench)
    await refused(bench, WrongDisk, sentence, devices=(device,))


@pytest.mark.parametrize(
    "device",
    [
        DeviceSpec("/one"),
        DeviceSpec("/one", id=1),
        DeviceSpec("/one", size=DISK),
        DeviceSpec("/x/../one", cache=1, name="disk1"),
    ],
)
async def test_a_disk_that_agrees_with_the_table_changes_nothing(device: DeviceSpec, autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.said.clear()
    async with bench.mount(devices=(device,)) as manager:
        assert list(manager.devices) == [1]
        assert await read(manager.devices[1], 0, LINE) == page(1)
    assert bench.said == []


async def test_a_copy_of_a_disk_is_not_taken_for_another(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.storage.media["/copy"] = bench.storage.media["/one"].crash(keep_all)
    await refused(bench, AlreadyThere, "/copy carries the UUID of another disk here", devices=(DeviceSpec("/copy"),))


@pytest.mark.parametrize("cache", [None, 0])
async def test_a_free_id_is_not_one_that_is_asked_for(cache: int | None, autojump_clock: Clock) -> None:
    bench = Bench()
    devices = (DeviceSpec("/a", size=DISK, cache=cache), DeviceSpec("/b", id=1, size=DISK, cache=cache))
    async with bench.mount(devices=devices) as manager:
        assert {device.path: device.id for device in manager.devices.values()} == {"/a": 2, "/b": 1}


async def test_two_new_disks_that_are_copies_of_each_other(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    for path in ("/copy1", "/copy2"):
        bench.storage.media[path] = bench.storage.media["/one"].crash(keep_all)
    await refused(
        bench, AlreadyThere, "/copy2 carries the UUID of", "/new.img", devices=(DeviceSpec("/copy1"), DeviceSpec("/copy2"))
    )


# Backings that are not what they were


async def gone(bench: Bench) -> None:
    bench.storage.media["/elsewhere"] = bench.storage.media.pop("/one")


async def shrunk(bench: Bench) -> None:
    bench.storage.media["/one"].resize(DISK - 512)


async def another(bench: Bench) -> None:
    medium = bench.storage.media["/one"]
    assert medium.label is not None
    medium.label = attrs.evolve(medium.label, uuid=(await bench.superblock()).uuid)


async def written_since(bench: Bench) -> None:
    medium = bench.storage.media["/one"]
    assert medium.label is not None
    medium.label = Label(medium.label.uuid, medium.label.stamp ^ 1)


async def unreadable(bench: Bench) -> None:
    bench.fault("/one", Fault(Operation.LABEL, times=1))


changes = pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (gone, NoSuchThing, "/one does not exist"),
        (shrunk, WrongDisk, f"/one has {DISK - 512} bytes and disk 1 had {DISK}: it has shrunk"),
        (another, WrongDisk, "/one carries the UUID .*: another disk"),
        (written_since, WrongDisk, "/one was in use under another cache since"),
        (unreadable, Failed, "/one cannot be read"),
    ],
)


@changes
async def test_a_backing_that_is_not_what_it_was_makes_its_disk_missing(
    change: Callable[[Bench], Awaitable[None]], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    await prepare(bench)
    label = bench.storage.media["/one"].label
    backing = bench.storage.media["/one"].live.copy()
    await change(bench)
    bench.said.clear()
    for _ in range(2):
        if change is unreadable:
            bench.faults.clear()
            await unreadable(bench)
        async with bench.mount() as manager:
            disk = manager.devices[1]
            assert not disk.present
            assert disk.state.startswith("missing ")
            assert disk.nr_dirty_caches == 1 == manager.caches[1].nr_dirty_caches
            for request in (disk.read(0, LINE), disk.write(0, page(2)), disk.flush()):
                with pytest.raises(Missing, match="disk 1 is missing") as caught:
                    await request
                assert caught.value.errno == errno.ENODEV
            assert disk.write_nowait(0, page(2)) == -1
            assert disk.read_nowait(0, LINE) is None
            with pytest.raises(Missing):
                await manager.caches[1].drop_caches()
        assert any("disk 1" in said and "missing" in said for said in bench.said)
        assert any("1 dirty lines are kept in cache 1" in said for said in bench.said)
        assert bench.nothing_is_open()
    # as it was, it is the disk again, and its lines migrate
    bench.faults.clear()
    medium = bench.storage.media.pop("/elsewhere", None) or bench.storage.media["/one"]
    medium.resize(DISK)
    medium.label = label
    assert medium.live == backing
    bench.storage.media["/one"] = medium
    async with bench.mount() as manager:
        assert manager.devices[1].state == "running"
        await manager.caches[1].drop_caches()
        assert manager.caches[1].nr_dirty_caches == 0
    assert bench.storage.media["/one"].live.read(0, LINE) == page(1)


@changes
async def test_named_in_the_command_it_refuses_the_mount(
    change: Callable[[Bench], Awaitable[None]], error: type[LcfsError], sentence: str, autojump_clock: Clock
) -> None:
    bench = Bench()
    await prepare(bench)
    await change(bench)
    await refused(bench, error, sentence, devices=(DeviceSpec("/one"), DeviceSpec("/new", size=DISK)))


async def test_a_backing_that_has_grown_keeps_its_stored_size(autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.storage.media["/one"].resize(4 * DISK)
    async with bench.mount() as manager:
        assert manager.devices[1].size == DISK
        assert manager.devices[1].state == "running"


async def test_written_elsewhere_since_is_no_harm_where_nothing_is_dirty(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        await manager.caches[1].drop_caches()
    await written_since(bench)
    put(bench, "/one", 0, page(2))
    async with bench.mount() as manager:
        assert manager.devices[1].state == "running"
        assert await read(manager.devices[1], 0, LINE) == page(2)
    assert any("was in use under another cache since; nothing was to be migrated" in said for said in bench.said)


async def test_a_disk_that_was_in_another_cache_since_is_not_replayed_onto(autojump_clock: Clock) -> None:
    """R7, played out: the disk is used under a second cache while its old cache still holds a dirty line of it."""
    bench = Bench()
    await prepare(bench)
    async with bench.mount("/second.img", devices=(DeviceSpec("/one"),)) as manager:
        await write(manager.devices[1], 0, page(2))
        await manager.detach(1)
    async with bench.mount() as manager:
        assert not manager.devices[1].present
    assert bench.storage.media["/one"].live.read(0, LINE) == page(2)


async def test_a_backing_that_carries_no_label_is_known_by_its_size(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.storage.add("/dev/sdx", DISK, labels=False)
    async with bench.mount(devices=(DeviceSpec("/dev/sdx"),)) as manager:
        await write(manager.devices[1], 0, page(1))
    async with bench.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)
        uuid = manager.devices[1].uuid
    bench.storage.media["/dev/sdx"].resize(DISK - LINE)
    async with bench.mount() as manager:
        assert manager.devices[1].state.startswith("missing /dev/sdx has")
        assert manager.devices[1].uuid == uuid


async def test_the_stamp_is_new_with_each_mount_and_on_both_sides(autojump_clock: Clock) -> None:
    bench = Bench()
    stamps = []
    async with bench.mount(devices=(ONE,)):
        pass
    for _ in range(3):
        async with bench.mount():
            (row,) = (await bench.superblock()).disks
            assert bench.storage.media["/one"].label == Label(row.uuid, row.stamp)
            stamps.append(row.stamp)
    assert len(set(stamps)) == 3


async def test_a_new_backing_whose_label_cannot_be_read_is_refused(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.storage.add("/old", DISK)
    bench.fault("/old", Fault(Operation.LABEL))
    await refused(bench, Failed, "/old cannot be read", devices=(DeviceSpec("/old"),))


async def test_a_label_that_cannot_be_written_is_worth_a_warning(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("disk 1: /one cannot be marked as in use")
    bench = Bench()
    await prepare(bench)
    bench.fault("/one", Fault(Operation.LABEL, skip=1))
    async with bench.mount() as manager:
        assert manager.devices[1].state == "running"
    async with bench.mount() as manager:
        assert manager.devices[1].state == "running"
        assert await read(manager.devices[1], 0, LINE) == page(1)


# Trouble on the way up


async def test_no_room_for_the_image_undoes_everything(autojump_clock: Clock) -> None:
    bench = Bench()
    bench.fault("/b.img", Fault(Operation.WRITE, error=errno.ENOSPC, skip=1))
    with pytest.raises(NoSpace, match=r"/b.img could not be formatted: .*; free some room") as caught:
        async with bench.mount("/a.img", "/b.img", devices=(ONE,)):
            pass
    assert caught.value.errno == errno.ENOSPC
    assert not bench.storage.is_open("/a.img")
    assert "/a.img" not in bench.storage.media
    assert "/one" not in bench.storage.media


async def test_a_recovery_that_fails_undoes_what_was_created(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log("cache 1 has failed: /ssd.img could not be flushed")
    bench = Bench()
    await prepare(bench)
    bench.fault("/ssd.img", Fault(Operation.FLUSH))
    before = bench.snapshot()
    with pytest.raises(Failed, match="could not be flushed"):
        async with bench.mount(devices=(TWO,)):
            pass
    assert bench.snapshot() == before
    assert bench.nothing_is_open()
    bench.faults.clear()
    async with bench.mount() as manager:
        assert await read(manager.devices[1], 0, LINE) == page(1)


@pytest.mark.parametrize("skip", [2, 3])
async def test_a_log_that_cannot_be_read_is_told(skip: int, autojump_clock: Clock) -> None:
    bench = Bench()
    await prepare(bench)
    bench.fault("/ssd.img", Fault(Operation.READ, skip=skip, times=None))
    await refused(bench, Failed, "/ssd.img cannot be read")


# Read-only


async def test_a_read_only_mount_reads_everything_and_writes_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount(devices=(ONE,)) as manager:
        await write(manager.devices[1], 0, page(1))
        await manager.devices[1].flush()
        crashed = Bench(bench.storage.crash(lose_all))
    labels = {path: medium.label for path, medium in crashed.storage.media.items()}
    before = crashed.snapshot()
    async with crashed.mount(readonly=True) as manager:
        disk = manager.devices[1]
        assert await read(disk, 0, LINE) == page(1)
        assert disk.write_nowait(0, page(2)) == -1
        with pytest.raises(NotPermitted, match="disk 1 is mounted read-only") as caught:
            await disk.write(0, page(2))
        assert caught.value.errno == errno.EROFS
        await disk.flush()
        with pytest.raises(NotPermitted):
            await manager.caches[1].set_tunable("barrier_deadline_ms", 9)
    assert crashed.snapshot() == before
    assert {path: medium.label for path, medium in crashed.storage.media.items()} == labels


async def test_a_read_only_mount_creates_nothing(autojump_clock: Clock) -> None:
    bench = Bench()
    for caches, devices in ((("/new.img",), ()), (("/ssd.img",), (TWO,))):
        await bench.image()
        before = bench.snapshot()
        with pytest.raises(NoSuchThing, match="a read-only mount creates nothing"):
            async with bench.mount(*caches, devices=devices, readonly=True):
                pass
        assert bench.snapshot() == before


# Two caches


async def two_caches(bench: Bench) -> None:
    """/a.img with disk 1, /b.img with disk 2, disk 3 without a cache."""
    devices = (DeviceSpec("/one", size=DISK), DeviceSpec("/two", size=DISK, cache=2), DeviceSpec("/three", size=DISK, cache=0))
    async with bench.mount("/a.img", "/b.img", devices=devices) as manager:
        for disk in manager.devices.values():
            await write(disk, 0, page(disk.id))


async def test_the_first_image_remembers_all_disks_and_each_its_own(autojump_clock: Clock) -> None:
    bench = Bench()
    await two_caches(bench)
    assert [disk.id for disk in (await bench.superblock("/a.img")).disks] == [1, 2, 3]
    assert [disk.id for disk in (await bench.superblock("/b.img")).disks] == [2]
    for order in (("/a.img", "/b.img"), ("/b.img", "/a.img")):
        async with bench.mount(*order) as manager:
            assert {disk.id: disk.cache_id for disk in manager.devices.values()} == {1: 1, 2: 2, 3: 0}
            for disk in manager.devices.values():
                assert await read(disk, 0, LINE) == page(disk.id)


async def test_a_disk_of_a_cache_that_is_not_mounted_is_not_used(autojump_clock: Clock) -> None:
    bench = Bench()
    await two_caches(bench)
    bench.said.clear()
    async with bench.mount("/a.img") as manager:
        assert manager.devices[2].state.startswith("missing its cache ")
        assert "is not mounted" in manager.devices[2].state
        assert manager.devices[1].present
        assert manager.devices[3].present
        assert not bench.storage.is_open("/two")
    assert any(said.startswith("disk 2 (/two) is not used: its cache") for said in bench.said)
    async with bench.mount("/b.img") as manager:
        assert list(manager.devices) == [2]
        assert await read(manager.devices[2], 0, LINE) == page(2)
    async with bench.mount("/a.img", "/b.img") as manager:
        assert await read(manager.devices[2], 0, LINE) == page(2)


async def test_a_disk_that_its_own_cache_has_let_go_has_none(autojump_clock: Clock) -> None:
    bench = Bench()
    await two_caches(bench)
    async with bench.mount("/b.img") as manager:
        await manager.detach(2)
        await manager.remove(2)
    async with bench.mount("/a.img", "/b.img") as manager:
        assert manager.devices[2].cache_id == 0
        assert await read(manager.devices[2], 0, LINE) == page(2)


async def test_two_disks_of_one_id_in_two_images(autojump_clock: Clock) -> None:
    bench = Bench()
    async with bench.mount("/a.img", devices=(ONE,)):
        pass
    async with bench.mount("/b.img", devices=(TWO,)):
        pass
    await refused(bench, AlreadyThere, "two disks have the id 1: /one and /two; mount their caches apart", "/a.img", "/b.img")
