# SPDX-License-Identifier: GPL-2.0-or-later
"""An image in memory with a log worth spoiling, and everything that reads an image let loose on it."""

from __future__ import annotations

import attrs
import trio

from lcfs.commands.check import examine
from lcfs.commands.dump import read_log, read_segment
from lcfs.commands.failure import CommandFailed
from lcfs.engine.errors import Failed, LcfsError, Missing
from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA
from lcfs.testing.memory import Medium, MemoryStore
from lcfs.testing.model import Model, Violation
from lcfs.testing.unsynced import keep_all
from lcfs.testing.world import IMAGES, Setup, World, make_media

IMAGE = IMAGES[1]
LOG = SUPERBLOCK_AREA
SETUP = Setup(blocks_per_segment=8, nr_segments=4)
PATIENCE = 1000.0
"""Seconds of the mock clock."""


@attrs.frozen
class World0:
    """Media with several records of two generations, all durable and known to be, and what the disks may hold."""

    media: dict[str, Medium]
    model: Model


async def make_world() -> World0:
    """Two disks with dirty lines, whole and in part; the second generation is committed."""
    model = SETUP.model()
    async with World(await make_media(SETUP), model) as world:
        await world.start()
        await world.manager.caches[1].set_tunable("update_interval", 0)
        for turn in range(4):
            await world.write(1, turn * LINE, 2 * LINE)
            await world.write(2, turn * LINE, LINE if turn % 2 else 1024)
            await world.barrier(1)
        await world.kill()
        await world.start()
        for turn in range(2):
            await world.write(1, (turn + 3) * LINE, LINE)
            await world.barrier(1)
        await world.manager.caches[1].commit_super_block()
        media = world.storage.crash(keep_all).media
    return World0(media, model)


@attrs.define
class Verdicts:
    """What became of the images: how many were refused with a sentence, how many were taken."""

    refused: int = 0
    taken: int = 0


async def try_everything(world: World0, image: bytes, *, trusted: bool) -> str:
    """check, dump and mount of an image; "refused" or "taken" is what mount made of it.

    Whatever it holds, nothing but an error with a sentence may come of it, nothing may hang, and with `trusted`
    (its checksums were not made to fit) a sector that can be read holds something that was written there.
    """
    with trio.fail_after(PATIENCE):
        await _read_tools(image)
        return await _mount(world, image, trusted)


async def _read_tools(image: bytes) -> None:
    for work in (examine, read_log, lambda store: read_segment(store, 1)):
        store = MemoryStore(_medium(image), IMAGE, readonly=True)
        try:
            await work(store)  # type: ignore[no-untyped-call]
        except (LcfsError, CommandFailed) as exc:
            require_sentence(exc)
        except OSError as exc:
            # a short image is read behind its end
            assert exc.errno is not None
        finally:
            await store.close()


async def _mount(world: World0, image: bytes, trusted: bool) -> str:
    media = {path: medium.crash(keep_all) for path, medium in world.media.items()}
    media[IMAGE] = _medium(image)
    nobody = Model()
    for disk, size in world.model.sizes.items():
        nobody.add_disk(disk, size, None)
    try:
        async with World(media, nobody, logged=False) as mounted:
            await mounted.start(doomed=True)
            await _use(mounted, world.model, trusted)
    except LcfsError as exc:
        require_sentence(exc)
        return "refused"
    return "taken"


async def _use(mounted: World, model: Model, trusted: bool) -> None:
    for disk, device in mounted.manager.devices.items():
        for offset in range(0, min(device.size, model.sizes.get(disk, 0)), LINE):
            length = min(LINE, device.size - offset)
            try:
                data = bytes(await device.read(offset, length))
            except (Failed, Missing) as exc:
                require_sentence(exc)
                continue
            if trusted:
                require_written(model, disk, offset, data)
        if device.present:
            try:
                await device.write(0, bytes(LINE))
                await device.flush()
            except LcfsError as exc:
                require_sentence(exc)


def require_written(model: Model, disk: int, offset: int, data: bytes) -> None:
    """Every sector holds something that was once written to it, or what was there at first (R2). Raises Violation."""
    for at in range(0, len(data), 512):
        sector = (offset + at) // 512
        if not model.was_ever(disk, sector, data[at : at + 512]):
            raise Violation("R2", disk, sector, "holds what was never written there")


def require_sentence(exc: Exception) -> None:
    """What a person gets: a sentence, not a traceback's last line."""
    text = str(exc)
    assert len(text) > 10 and "\n" not in text and "Traceback" not in text, text
    assert isinstance(exc, CommandFailed) or (exc.errno and exc.exit_code)  # type: ignore[attr-defined]


def _medium(image: bytes) -> Medium:
    from lcfs.testing.image import SparseImage

    return Medium(SparseImage.of(image, max(len(image), 0)))


def image_of(world: World0) -> bytearray:
    """The bytes of the image."""
    durable = world.media[IMAGE].durable
    return bytearray(durable.read(0, durable.size))
