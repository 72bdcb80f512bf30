# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs status`: what is mounted and how it is, read from the tree."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from lcfs.commands.arguments import add_json_option
from lcfs.commands.control import TUNABLES, Tree
from lcfs.commands.counts import NOTHING, Counts, counted
from lcfs.commands.exposition import samples
from lcfs.commands.failure import FAILED, CommandFailed
from lcfs.commands.listing import print_json
from lcfs.commands.mounts import Mount, is_dead, lcfs_mounts, require_answer, the_mount
from lcfs.commands.run_file import daemon_of

NAME = "status"
HELP = "show the caches and disks of the mounted lcfs"

CACHE_NUMBERS = (
    "nr_segments",
    "nr_caches",
    "nr_dirty_caches",
    "last_flushed_segment_id",
    "last_migrated_segment_id",
)
DEVICE_NUMBERS = ("size", "cache_id", "nr_dirty_caches", "migrate_threshold")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_json_option(parser)
    parser.add_argument("mountpoint", metavar="MNT", nargs="?", help="only this one (default: every mounted lcfs)")


def run(options: argparse.Namespace) -> int:
    """Print MNT/status of each, or its attributes as JSON."""
    mounts = [the_mount(options.mountpoint)] if options.mountpoint is not None else lcfs_mounts()
    if not mounts and not options.json:
        raise CommandFailed("no lcfs is mounted; mount one with: lcfs mount MNT --cache IMAGE")
    described: list[dict[str, Any]] = []
    texts: list[str] = []
    unreadable = 0
    for mount in mounts:
        try:
            require_answer(mount.mountpoint)
            if options.json:
                described.append(describe(mount))
            else:
                texts.append(text_of(mount))
        except CommandFailed as failure:  # one that is going away, hangs, or is not ours to read, hides no other
            print(f"{options.prog}: {failure}", file=sys.stderr)
            unreadable += 1
    if options.json:
        print_json("mounts", described)
    else:
        print("\n".join(texts))
    return FAILED if unreadable else 0


def text_of(mount: Mount) -> str:
    """One mount for a person."""
    heading = f"{mount.mountpoint} ({mount.source})"
    if is_dead(mount.mountpoint):
        return f"{heading}\nits daemon is gone; the next lcfs mount there cleans up, and so does: lcfs umount"
    return f"{heading}\n{Tree(mount.mountpoint).read('status')}"


def describe(mount: Mount) -> dict[str, Any]:
    """One mount as JSON. A dead one has null for what only its daemon knows."""
    dead = is_dead(mount.mountpoint)
    tree = Tree(mount.mountpoint)
    counts = counted(()) if dead else counted(samples(tree.read("metrics")))
    return {
        "mountpoint": mount.mountpoint,
        "source": mount.source,
        "pid": daemon_of(mount),
        "state": "dead" if dead else "running",
        "caches": None if dead else [_cache(tree, id_, counts.caches.get(id_, NOTHING)) for id_ in tree.ids("caches")],
        "devices": None if dead else [_device(tree, id_, counts.devices.get(id_, NOTHING)) for id_ in tree.ids("block")],
    }


def _cache(tree: Tree, id_: int, counts: Counts) -> dict[str, Any]:
    return {
        "id": id_,
        "state": tree.read("caches", id_, "state"),
        "uuid": tree.read("caches", id_, "uuid"),
        "path": os.readlink(tree.path("caches", id_, "device")),
        "migration": tree.read("caches", id_, "migration"),
        "scrub": tree.read("caches", id_, "scrub"),
        **{name: int(tree.read("caches", id_, name)) for name in CACHE_NUMBERS},
        **{name: getattr(counts, name) for name in ("reads", "read_hits", "writes", "write_hits", "migrated", "flushes")},
        "tunables": {name: int(tree.read("caches", id_, name)) for name in TUNABLES},
    }


def _device(tree: Tree, id_: int, counts: Counts) -> dict[str, Any]:
    return {
        "id": id_,
        "name": tree.read("block", id_, "name"),
        "state": tree.read("block", id_, "state"),
        "uuid": tree.read("block", id_, "uuid"),
        "path": os.readlink(tree.path("block", id_, "device")),
        "suspended": tree.read("block", id_, "suspended") == "1",
        "dev": tree.read("block", id_, "dev").split(),
        **{name: int(tree.read("block", id_, name)) for name in DEVICE_NUMBERS},
        "errors": counts.errors,
    }
