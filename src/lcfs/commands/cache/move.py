# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache move`: the disks of a cache go to a new cache on another image while they are in use.

Nothing here that the other verbs cannot do: a format, a resume, then a detach and an attach for each disk, a free. So at any
moment each disk has the old cache, the new one, or none, and a mount brings up what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from lcfs.commands.arguments import add_cache_argument, add_image_argument, add_mount_option, size
from lcfs.commands.cache.drop import drop
from lcfs.commands.cache.format import format_path
from lcfs.commands.control import TUNABLES, Tree
from lcfs.commands.device.drain import drain
from lcfs.commands.failure import FAILED, INTERRUPTED, CommandFailed
from lcfs.commands.loose_link import require_no_loose_link

NAME = "move"
HELP = "give the disks of a cache a new cache on another image, while they are in use"

TAKEN_OVER = tuple(name for name in TUNABLES if name != "allow_migrate")
"""What the new cache takes over; allow_migrate too where update_interval leaves it to the operator."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    add_cache_argument(parser)
    add_image_argument(parser)
    parser.add_argument("--size", type=size, help="bytes, or with K, M, G, T, of an image that is made (default: 256M)")


def run(options: argparse.Namespace) -> int:
    """Move, and say what the new cache is called; Ctrl-C before the end brings everything back."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    require_no_loose_link(options.image)
    tree, image = Tree.chosen(options.mountpoint), os.path.realpath(options.image)
    tree.require("caches", options.id)
    new = move(tree, options.id, image, options.size)
    print(f"cache {options.id} is cache {new} now, on {image}; mount with --cache {image} from now on")
    return 0


def move(tree: Tree, old: int, image: str, wanted: int | None) -> int:
    """The id of the new cache. Raises CommandFailed, after Ctrl-C with INTERRUPTED; all disks are on the old one then."""
    disks = _disks_of(tree, old)
    for disk in disks:
        if (state := tree.read("block", disk, "state")).startswith("missing"):
            raise CommandFailed(f"disk {disk} of cache {old} is {state}; bring it back, or remove it, first")
    is_new = not os.path.lexists(image)
    _format(image, wanted)
    try:
        new = _resume(tree, image)
        _copy_tunables(tree, old, new)
        drop(tree, old, late=True)
        for disk in disks:
            drain(tree, "detach", disk, late=True)
            tree.send("attach", disk, new)
    except (CommandFailed, KeyboardInterrupt) as error:
        code = error.exit_code if isinstance(error, CommandFailed) else INTERRUPTED
        why = "called off" if code == INTERRUPTED else str(error)
        _go_back(tree, old, disks, image)
        if is_new:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(image)
        raise CommandFailed(f"{why}; the disks stay on cache {old}", code) from None
    try:
        _free(tree, old)
    except CommandFailed as error:
        raise CommandFailed(f"the disks are on cache {new} now, but cache {old} was not let go: {error}", FAILED) from None
    return new


def _disks_of(tree: Tree, cache: int) -> list[int]:
    return [disk for disk in tree.ids("block") if tree.read("block", disk, "cache_id") == str(cache)]


def _format(image: str, wanted: int | None) -> None:
    import trio

    from lcfs.engine.errors import LcfsError

    try:
        trio.run(format_path, image, wanted, False)
    except LcfsError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandFailed(f"{image} could not be formatted: {error.strerror}") from None


def _resume(tree: Tree, image: str) -> int:
    with tree.locked(), tree.control() as control:
        used = tree.ids("caches")
        new = next((number for number in range(1, 255) if number not in used), 0)
        if not new:
            raise CommandFailed("all 254 cache ids are used; free one first")
        control.send("switch_to", new)
        control.send("resume_cache", image)
        return new


def _copy_tunables(tree: Tree, old: int, new: int) -> None:
    for name in TAKEN_OVER:
        tree.store(tree.read("caches", old, name), "caches", new, name)
    if tree.read("caches", old, "update_interval") == "0":
        tree.store(tree.read("caches", old, "allow_migrate"), "caches", new, "allow_migrate")


def _free(tree: Tree, cache: int) -> None:
    with tree.locked(), tree.control() as control:
        control.send("switch_to", cache)
        control.send("free_cache")


def _go_back(tree: Tree, old: int, disks: list[int], image: str) -> None:
    """Every disk to the old cache, and the new one gone: by what the tree says, whatever the last step came to."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    new = next((number for number in tree.ids("caches") if os.readlink(tree.path("caches", number, "device")) == image), 0)
    moved = [disk for disk in disks if tree.read("block", disk, "cache_id") != str(old)]
    if moved:
        print(f"disk {', '.join(map(str, moved))}: going back to cache {old}", file=sys.stderr)
    for disk in moved:
        if tree.read("block", disk, "cache_id") != "0":
            tree.send("detach", disk)
        tree.send("attach", disk, old)
    if new:
        _free(tree, new)
