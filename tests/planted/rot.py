# SPDX-License-Identifier: GPL-2.0-or-later
"""Bit rot: one bit flipped somewhere in an image, then everything is read.

What may happen then (R5): the image is refused, with a reason; or every line reads as the oracle allows, or as EIO. A line
that is clean is never EIO: the backing has it. What was durable is never missing without a word.
"""

from __future__ import annotations

import attrs

from lcfs.engine.errors import Damaged, Failed
from lcfs.engine.geometry import LINE, SUPERBLOCK_AREA
from lcfs.testing.memory import Medium
from lcfs.testing.model import Model, Violation
from lcfs.testing.unsynced import keep_all
from lcfs.testing.world import IMAGES, Setup, World, make_media

BITS = (3, 8 * 100 + 6, 8 * 4000)
"""Bits of each block that are flipped, one at a time."""
IMAGE = IMAGES[1]


@attrs.define
class Rot:
    """Looks at one damaged image after another; `images` counts them."""

    images: int = 0

    async def look_everywhere(self) -> None:
        """Raises Violation."""
        setup = Setup(blocks_per_segment=8, nr_segments=4)
        media, model = await _written(setup)
        first = SUPERBLOCK_AREA // LINE
        blocks = [0, SUPERBLOCK_AREA // 2 // LINE, *range(first, first + setup.nr_segments * setup.blocks_per_segment)]
        for block in blocks:
            for bit in BITS:
                await self._at_rest(media, model, block * 8 * LINE + bit)
        await self._under_a_mount(setup)

    async def _at_rest(self, media: dict[str, Medium], model: Model, bit: int) -> None:
        self.images += 1
        damaged = {path: medium.crash(keep_all) for path, medium in media.items()}
        _flip(damaged[IMAGE], bit)
        nobody = Model()
        for disk, size in model.sizes.items():
            nobody.add_disk(disk, size, None)
        try:
            async with World(damaged, nobody, logged=False) as world:
                await world.start(doomed=True)
                await self._read_all(world, model)
        except Damaged:
            return

    async def _read_all(self, world: World, model: Model) -> None:
        """Line by line; what cannot be read must say so, and everything else must be as the oracle allows."""
        contents: dict[int, bytes] = {}
        unreadable = 0
        for disk in world.manager.devices:
            device, parts = world.manager.devices[disk], []
            for offset in range(0, device.size, LINE):
                length = min(LINE, device.size - offset)
                try:
                    parts.append(bytes(await device.read(offset, length)))
                except Failed:
                    unreadable += 1
                    parts.append(model.expected(disk, offset, length))
            contents[disk] = b"".join(parts)
        model.check_recovered(contents)
        if unreadable > 1:
            raise Violation("R5", 0, 0, f"{unreadable} lines cannot be read after one bit was flipped")

    async def _under_a_mount(self, setup: Setup) -> None:
        """Lines that are clean and still on the image: the backing serves what cannot be."""
        model = setup.model()
        async with World(await make_media(setup), model, nowait=False) as world:
            await world.start()
            cache = world.manager.caches[1]
            await world.write(1, 0, 4 * LINE)
            await cache.drop_caches()
            for line in range(4):
                self.images += 1
                index = world.device(1).table.index[line]
                if not index:
                    raise Violation("R5", 1, line * 8, "is clean, and not on the image any more: nothing is tried")
                medium = world.storage.media[IMAGE]
                page = bytearray(medium.live.read(index * LINE, LINE))
                page[7] ^= 1
                medium.live.write(index * LINE, bytes(page))
                await world.read(1, line * LINE, LINE)


async def _written(setup: Setup) -> tuple[dict[str, Medium], Model]:
    """Media with durable records of several segments and generations, and the oracle that saw them written."""
    model = setup.model()
    async with World(await make_media(setup), model) as world:
        await world.start()
        await world.manager.caches[1].set_tunable("update_interval", 0)
        for turn in range(5):
            await world.write(1, turn * LINE, 2 * LINE)
            await world.write(2, turn * LINE, LINE if turn % 2 else 1024)
            await world.barrier(1)
        await world.kill()
        await world.start()
        for turn in range(3):
            await world.write(1, (turn + 3) * LINE, LINE)
            await world.barrier(1)
        # without it nothing would say that the last record was durable, and its loss could not be told from a torn tail
        await world.manager.caches[1].commit_super_block()
        media = world.storage.crash(keep_all).media
    return media, model


def _flip(medium: Medium, bit: int) -> None:
    byte = bit // 8
    old = medium.durable.read(byte, 1)[0]
    for image in (medium.durable, medium.live):
        image.write(byte, bytes([old ^ 1 << bit % 8]))
