# SPDX-License-Identifier: GPL-2.0-or-later
"""What the control tree is: nodes, what reading one gives, what writing one does. `docs/control_tree.md` describes it.

Nothing here knows FUSE; fuse_ops translates. A node lives as long as the cache or disk it shows: the tree holds
neither lists nor copies of the engine's state, and compares itself with the manager whenever a directory is looked
at. An inode number belongs to one node for ever: a disk that gets the id of a removed one is another file, of which
the kernel cannot have pages.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from errno import ESTALE
from typing import Generic, TypeVar

from lcfs.engine import Cache, Device, Invalid, LcfsError, Manager, NoSuchThing
from lcfs.tree_attributes import BLOCK_ATTRIBUTES, CACHE_ATTRIBUTES, READ, Attribute, Surroundings
from lcfs.tree_loops import LoopDevices
from lcfs.tree_metrics import metrics_text
from lcfs.tree_text import status_text

ROOT_INO = 1
VALUE_MAX = 4096
"""Bytes of an attribute's text, and of one store; also the st_size of every text."""

T = TypeVar("T")


class Node:
    """Anything with a name. `mode` are the permission bits; `uid` and `gid` are None for the mount's owner."""

    type = stat.S_IFREG

    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.uid: int | None = None
        self.gid: int | None = None

    @property
    def size(self) -> int:
        """st_size, bytes."""
        return VALUE_MAX


class Directory(Node):
    """Names, in the order of their inode numbers."""

    type = stat.S_IFDIR

    def __init__(self, ino: int, entries: dict[str, Node] | None = None) -> None:
        super().__init__(ino, 0o755)
        self.entries: dict[str, Node] = {} if entries is None else entries

    def refresh(self) -> None:
        """Make `entries` what they should be now."""

    def subtree(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for node in self.entries.values():
            yield from node.subtree() if isinstance(node, Directory) else (node,)


class Link(Node):
    """A symbolic link to `target`, an absolute path."""

    type = stat.S_IFLNK

    def __init__(self, ino: int, target: str) -> None:
        super().__init__(ino, 0o777)
        self.target = target

    @property
    def size(self) -> int:
        return len(self.target.encode(errors="surrogateescape"))


class DiskFile(Node):
    """The disk itself."""

    def __init__(self, ino: int, mode: int, device: Device) -> None:
        super().__init__(ino, mode)
        self.device = device

    @property
    def size(self) -> int:
        return self.device.size


class TextFile(Node):
    """A text made when it is read. `store` is None where nothing can be written, whatever chmod says."""

    def __init__(
        self,
        ino: int,
        mode: int,
        show: Callable[[], bytes],
        store: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(ino, mode)
        self.show = show
        self.store = store

    def open(self) -> TextHandle:
        """A new open file."""
        return TextHandle(self)


class TextHandle:
    """An open text: its value is taken when it is read from offset 0, as sysfs does."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._value: bytes | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Part of the value taken last; empty behind its end."""
        if offset == 0 or self._value is None:
            self._value = self._file.show()
        return self._value[offset : offset + length]

    async def write(self, data: bytes) -> int:
        """One store, wherever in the file it is; the bytes taken, which are all. Raises what the store raises."""
        if self._file.store is None:
            raise PermissionError("opened for reading")
        await self._file.store(data)
        return len(data)


class ControlFile(Node):
    """`control`: manager messages in, answers out."""

    def __init__(self, ino: int, mode: int, manager: Manager) -> None:
        super().__init__(ino, mode)
        self._manager = manager

    def open(self) -> ControlHandle:
        """A new open file."""
        return ControlHandle(self._manager)


class ControlHandle:
    """An open `control`.

    Before anything was written it reads as the last refusal of the mount. After a write it reads as the answer, or
    as the sentence why not, from wherever the file position is: that moves with a write that was taken and stays
    with one that failed, and the reader need not know.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._answer: bytes | None = None
        self._start: int | None = None
        """File position at which the answer begins: where it is first read."""
        self._refusal = b""

    def read(self, offset: int, length: int) -> bytes:
        """Part of the answer, or of the last refusal; empty behind its end."""
        if self._answer is None:
            if offset == 0:
                self._refusal = _answer(self._manager.last_refusal)
            return self._refusal[offset : offset + length]
        if self._start is None or offset < self._start:
            self._start = offset
        offset -= self._start
        return self._answer[offset : offset + length]

    async def write(self, data: bytes) -> int:
        """One message; returns when it is done. Raises what the manager raises."""
        self._start = None
        self._answer = b""
        try:
            self._answer = _answer(await self._manager.message(_message_line(data)))
        except (LcfsError, OSError) as exc:
            sentence = _sentence(exc)
            self._manager.refuse(sentence)
            self._answer = _answer(sentence)
            raise
        return len(data)


class Tree:
    """The tree of one mount at the absolute path `mountpoint`.

    `mode` are the permission bits of what only the owner should use, the disks and `control`; None is 0600.
    """

    def __init__(self, manager: Manager, mountpoint: str, *, mode: int | None = None, sys_block: str = "/sys/block") -> None:
        self._at = Surroundings(manager, LoopDevices(mountpoint, sys_block))
        self._mode = 0o600 if mode is None else mode
        self._numbers = itertools.count(ROOT_INO)
        self.nodes: dict[int, Node] = {}
        """By inode number: every node that is alive."""
        self.root = self._add(Directory(self.new_ino()))
        self.root.entries |= {
            "control": self._add(ControlFile(self.new_ino(), self._mode, manager)),
            "status": self._add(TextFile(self.new_ino(), READ, lambda: _line(status_text(self._at)))),
            "metrics": self._add(TextFile(self.new_ino(), READ, lambda: _line(metrics_text(manager)))),
            "devices": self._directory_of(lambda: _present(manager.devices), self._disk),
            "caches": self._directory_of(lambda: manager.caches, self._cache),
            "block": self._directory_of(lambda: manager.devices, self._block),
        }

    def new_ino(self) -> int:
        """An inode number that nothing had before."""
        return next(self._numbers)

    def node(self, ino: int) -> Node:
        """The living node `ino`; raises NoSuchThing with errno ESTALE."""
        node = self.nodes.get(ino)
        if node is None:
            raise NoSuchThing("what this was is no longer in the tree; look it up again", errno=ESTALE)
        return node

    def entries(self, directory: Directory) -> Mapping[str, Node]:
        """What is in a directory now."""
        directory.refresh()
        return directory.entries

    def size(self) -> tuple[int, int]:
        """Bytes of all disks, and the number of nodes."""
        for directory in self.root.entries.values():
            if isinstance(directory, Directory):
                directory.refresh()
        return sum(node.size for node in self.nodes.values() if isinstance(node, DiskFile)), len(self.nodes)

    def _directory_of(self, owners: Callable[[], Mapping[int, T]], make: Callable[[T], Node]) -> Directory:
        return self._add(_OwnersDirectory(self, owners, make))

    def _disk(self, device: Device) -> Node:
        return self._add(DiskFile(self.new_ino(), self._mode, device))

    def _cache(self, cache: Cache) -> Node:
        return self._attributes(f"caches/{cache.id}", CACHE_ATTRIBUTES, cache, cache.path)

    def _block(self, device: Device) -> Node:
        return self._attributes(f"block/{device.id}", BLOCK_ATTRIBUTES, device, device.path)

    def _attributes(self, path: str, rows: tuple[Attribute[T], ...], owner: T, target: str) -> Directory:
        directory = self._add(Directory(self.new_ino()))
        for row in rows:
            directory.entries[row.name] = self._add(self._attribute(f"{path}/{row.name}", row, owner))
        directory.entries["device"] = self._add(Link(self.new_ino(), target))
        return directory

    def _attribute(self, path: str, row: Attribute[T], owner: T) -> TextFile:
        async def store(data: bytes) -> None:
            assert row.store is not None
            try:
                await row.store(self._at, owner, _value(data))
            except (LcfsError, OSError) as exc:
                self._at.manager.refuse(f"{path}: {_sentence(exc)}")
                raise

        def show() -> bytes:
            value = _line(row.show(self._at, owner))
            return value if len(value) <= VALUE_MAX else value[: VALUE_MAX - 1] + b"\n"

        return TextFile(self.new_ino(), row.mode, show, None if row.store is None else store)

    def _add(self, node: NodeT) -> NodeT:
        self.nodes[node.ino] = node
        return node


NodeT = TypeVar("NodeT", bound=Node)


class _OwnersDirectory(Directory, Generic[T]):
    """`devices`, `caches`, `block`: an entry for each disk or cache there is, named by its id."""

    def __init__(self, tree: Tree, owners: Callable[[], Mapping[int, T]], make: Callable[[T], Node]) -> None:
        super().__init__(tree.new_ino())
        self._tree = tree
        self._owners = owners
        self._make = make
        self._shown: dict[int, T] = {}

    def refresh(self) -> None:
        owners = self._owners()
        for id_ in [id_ for id_, owner in self._shown.items() if owners.get(id_) is not owner]:
            del self._shown[id_]
            gone = self.entries.pop(str(id_))
            for node in gone.subtree() if isinstance(gone, Directory) else (gone,):
                del self._tree.nodes[node.ino]
        for id_ in sorted(owners.keys() - self._shown.keys()):
            self._shown[id_] = owners[id_]
            self.entries[str(id_)] = self._make(owners[id_])


def _present(devices: Mapping[int, Device]) -> dict[int, Device]:
    return {id_: device for id_, device in devices.items() if device.present}


def _value(data: bytes) -> str:
    if len(data) > VALUE_MAX:
        raise Invalid(f"a value has at most {VALUE_MAX} bytes, not {len(data)}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Invalid(f"{data[:80]!r} is not UTF-8 text") from None


def _message_line(data: bytes) -> str:
    line = data.decode(errors="surrogateescape").removesuffix("\n")
    if "\n" in line or "\0" in line:
        raise Invalid(f"control takes one line at a time, not {line[:80]!r}")
    return line


def _sentence(exc: LcfsError | OSError) -> str:
    return str(exc) if isinstance(exc, LcfsError) else exc.strerror or str(exc)


def _answer(text: str) -> bytes:
    return _line(text) if text else b""


def _line(text: str) -> bytes:
    return (text if text.endswith("\n") else f"{text}\n").encode(errors="surrogateescape")
