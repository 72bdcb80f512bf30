# SPDX-License-Identifier: GPL-2.0-or-later
import errno

import pytest

from lcfs.engine.errors import AlreadyThere, InUse, NoSuchThing, Unsuitable
from lcfs.testing import DelayStore, Fault, FaultStore, Log, MemoryStorage, Operation, keep_all, lose_all


async def test_create_open_close_remove() -> None:
    storage = MemoryStorage()
    store = await storage.create("ssd.img", 4096)
    assert storage.exists("/ssd.img") and storage.exists("./ssd.img")
    assert (store.name, store.size) == ("/ssd.img", 4096)
    await store.write(0, [b"x"])
    await store.close()
    again = await storage.open("/a/../ssd.img")
    buffer = bytearray(1)
    await again.readinto(0, memoryview(buffer))
    assert buffer == b"x"
    await again.close()
    await storage.remove("ssd.img")
    assert not storage.exists("ssd.img")


async def test_is_locked_while_open_through_layers_too() -> None:
    storage = MemoryStorage(wrap=lambda path, store: DelayStore(store))
    store = await storage.create("a", 4096)
    with pytest.raises(InUse) as caught:
        await storage.open("/a")
    assert caught.value.errno == errno.EBUSY
    assert storage.is_open("a")
    await store.close()
    assert not storage.is_open("a")
    await (await storage.open("a")).close()


async def test_refusals() -> None:
    storage = MemoryStorage()
    storage.add("a", 4096)
    storage.add("empty", 0)
    with pytest.raises(NoSuchThing):
        await storage.open("b")
    with pytest.raises(AlreadyThere):
        await storage.create("a", 1)
    with pytest.raises(Unsuitable):
        await storage.open("empty")
    readonly = await storage.open("a", readonly=True)
    with pytest.raises(OSError):
        await readonly.write(0, [b"x"])


async def test_same_goes_by_canonical_path() -> None:
    storage = MemoryStorage()
    assert storage.canonical("x/../a") == "/a"
    assert storage.same("a", "/./a")
    assert not storage.same("a", "b")


async def test_power_fails_for_all_media_at_once_or_for_each_in_its_way() -> None:
    storage = MemoryStorage()
    for path in ("a", "b"):
        await (await storage.create(path, 4096)).write(0, [b"x"])
    lost = storage.crash(lose_all)
    mixed = storage.crash({"/a": keep_all, "/b": lose_all})
    assert [lost.media[path].live.read(0, 1) for path in ("/a", "/b")] == [b"\0", b"\0"]
    assert [mixed.media[path].live.read(0, 1) for path in ("/a", "/b")] == [b"x", b"\0"]
    assert not mixed.is_open("a"), "the lock died with the machine"
    assert storage.is_open("a")


async def test_a_medium_that_shrank() -> None:
    storage = MemoryStorage()
    storage.add("a", 8192)
    storage.media["/a"].resize(4096)
    assert (await storage.open("a")).size == 4096


async def test_a_log_has_what_reaches_the_media_below_other_layers() -> None:
    log = Log()
    storage = MemoryStorage(log=log, wrap=lambda path, store: FaultStore(store, Fault(Operation.WRITE)))
    store = await storage.create("a", 4096)
    with pytest.raises(OSError):
        await store.write(0, [b"x"])
    await store.write(0, [b"y"])
    assert [(call.operation, call.store, call.data) for call in log.calls] == [
        (Operation.CREATE, "/a", b""),
        (Operation.WRITE, "/a", b"y"),
    ]
    assert storage.crash(keep_all).log is None
