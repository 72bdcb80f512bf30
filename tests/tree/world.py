# SPDX-License-Identifier: GPL-2.0-or-later
"""The control tree on a real engine in memory, and what tests ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from lcfs.engine import Cache, CacheSpec, Device, DeviceSpec, Manager, MountSpec, open_manager
from lcfs.sysfs_tree import ControlFile, Directory, Node, TextFile, Tree
from lcfs.testing import MemoryStorage
from lcfs.testing.storage import Wrap

MIB = 1 << 20


@attrs.frozen
class World:
    """A mount without FUSE: cache 1 with disks 1 and 2, and `loop`, a stand-in for /sys/block."""

    manager: Manager
    storage: MemoryStorage
    tree: Tree
    sys_block: Path

    @property
    def cache(self) -> Cache:
        return self.manager.caches[1]

    @property
    def disk(self) -> Device:
        return self.manager.devices[1]

    def node(self, path: str) -> Node:
        node: Node = self.tree.root
        for name in path.split("/"):
            assert isinstance(node, Directory)
            node = self.tree.entries(node)[name]
        return node

    def names(self, path: str) -> set[str]:
        directory = self.node(path) if path else self.tree.root
        assert isinstance(directory, Directory)
        return set(self.tree.entries(directory))

    def text(self, path: str) -> TextFile:
        node = self.node(path)
        assert isinstance(node, TextFile)
        return node

    def control(self) -> ControlFile:
        node = self.node("control")
        assert isinstance(node, ControlFile)
        return node

    def read(self, path: str) -> str:
        return self.text(path).open().read(0, 1 << 20).decode()

    async def store(self, path: str, value: bytes) -> None:
        assert await self.text(path).open().write(value) == len(value)

    async def message(self, line: str) -> str:
        """A manager message and its answer."""
        handle = self.control().open()
        await handle.write(line.encode() + b"\n")
        return handle.read(len(line) + 1, 65536).decode()

    def bind(self, number: int, path: str) -> None:
        """A loop device as sysfs shows it."""
        directory = self.sys_block / f"loop{number}" / "loop"
        directory.mkdir(parents=True)
        (directory / "backing_file").write_text(path + "\n")
        (directory.parent / "dev").write_text(f"7:{number}\n")


@asynccontextmanager
async def open_world(sys_block: Path, spec: MountSpec, wrap: Wrap = lambda _, store: store) -> AsyncIterator[World]:
    """A mount at /mnt/lc, without FUSE; `wrap` puts layers on its stores."""
    storage = MemoryStorage(wrap=wrap)
    async with open_manager(spec, storage) as manager:
        yield World(manager, storage, Tree(manager, "/mnt/lc", sys_block=str(sys_block)), sys_block)


TWO_DISKS = MountSpec(
    caches=(CacheSpec("/ssd.img", size=8 * MIB),),
    devices=(DeviceSpec("/one.img", id=1, size=4 * MIB, name="first"), DeviceSpec("/two.img", id=2, size=2 * MIB)),
)
