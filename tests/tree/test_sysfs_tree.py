# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes there are, and how they come and go."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from lcfs.engine import LcfsError
from lcfs.engine.messages import VERBS
from lcfs.sysfs_tree import VALUE_MAX, Directory, DiskFile, Link, Tree
from lcfs.tree_attributes import BLOCK_ATTRIBUTES, CACHE_ATTRIBUTES
from tests.tree.world import MIB, World


async def test_the_tree_lists_what_it_should_and_nothing_else(world: World) -> None:
    assert world.names("") == {"control", "status", "metrics", "devices", "caches", "block"}
    assert world.names("devices") == world.names("block") == {"1", "2"}
    assert world.names("caches") == {"1"}
    assert world.names("caches/1") == {
        *("allow_migrate", "force_migrate", "nr_max_batched_migration", "barrier_deadline_ms"),
        *("flush_current_buffer", "flush_current_buffer_interval", "commit_super_block", "commit_super_block_interval"),
        *("update_interval", "last_flushed_segment_id", "last_migrated_segment_id", "device", "state", "stats"),
        *("migration", "clear_stat", "drop_caches", "scrub", "nr_segments", "nr_caches", "nr_dirty_caches", "segments"),
        *("uuid", "status"),
    }
    assert world.names("block/1") == {
        *("cache_id", "dev", "device_no", "migrate_threshold", "nr_dirty_caches", "device"),
        *("name", "size", "uuid", "state", "suspended"),
    }


async def test_mode_of_disks_and_control_can_be_chosen(world: World) -> None:
    tree = Tree(world.manager, "/mnt/lc", mode=0o660)
    devices = tree.root.entries["devices"]
    assert isinstance(devices, Directory)
    assert tree.root.entries["control"].mode == tree.entries(devices)["1"].mode == 0o660
    assert tree.root.entries["status"].mode == 0o444


async def test_device_links_are_absolute(world: World) -> None:
    for path, target in {"caches/1/device": "/ssd.img", "block/1/device": "/one.img", "block/2/device": "/two.img"}.items():
        link = world.node(path)
        assert isinstance(link, Link)
        assert link.target == target
        assert link.size == len(target)


async def test_a_disk_that_comes_later_is_there_and_one_that_goes_is_gone(world: World) -> None:
    await world.message("create 3 /three.img 1M")
    assert world.names("devices") == world.names("block") == {"1", "2", "3"}
    disk, row = world.node("devices/3"), world.node("block/3/size")
    await world.message("remove 3")
    assert world.names("devices") == world.names("block") == {"1", "2"}
    for node in (disk, row):
        with pytest.raises(LcfsError) as refusal:
            world.tree.node(node.ino)
        assert refusal.value.errno == errno.ESTALE


async def test_an_inode_number_is_never_used_for_something_else(world: World) -> None:
    used: set[int] = set(world.tree.nodes)
    await world.message("create 3 /three.img 1M")
    first = {path: world.node(path).ino for path in ("devices/3", "block/3", "block/3/size")}
    assert not used & set(first.values())
    used |= set(world.tree.nodes)
    await world.message("remove 3")
    await world.message("create 3 /again.img 2M")
    second = {path: world.node(path).ino for path in first}
    assert not used & set(second.values())
    assert world.node("devices/3").size == 2 * MIB
    assert world.tree.new_ino() not in world.tree.nodes


async def test_inode_numbers_stay_while_a_node_lives(world: World) -> None:
    paths = ("devices/1", "caches/1", "caches/1/state", "block/1", "block/1/device")
    before = [world.node(path).ino for path in paths]
    await world.message("detach 1")
    await world.message("create 3 /three.img 1M")
    await world.message("attach 1 1")
    assert [world.node(path).ino for path in paths] == before
    assert [world.tree.node(ino) for ino in before] == [world.node(path) for path in paths]


async def test_a_missing_disk_has_no_file_but_can_be_asked(world: World) -> None:
    before = world.node("devices/1").ino
    world.disk.set_missing("it was unplugged")
    assert world.names("devices") == {"2"}
    assert world.read("block/1/state") == "missing it was unplugged\n"
    world.disk.set_missing("")
    assert world.node("devices/1").ino > before  # what the kernel kept of it may be out of date


async def test_sizes(world: World) -> None:
    assert world.tree.size() == (6 * MIB, len(world.tree.nodes))
    await world.message("create 3 /three.img 1M")
    size, nodes = world.tree.size()
    assert size == 7 * MIB
    assert nodes == len(list(world.tree.root.subtree()))
    disk = world.node("devices/3")
    assert isinstance(disk, DiskFile)
    assert disk.size == MIB
    assert world.node("caches/1/state").size == VALUE_MAX


def test_the_document_names_everything() -> None:
    document = (Path(__file__).parent.parent.parent / "docs/control_tree.md").read_text()
    caches, block = document.partition("### caches/")[2].partition("## Messages")[0].split("### block/")
    for section, rows in ((caches, CACHE_ATTRIBUTES), (block, BLOCK_ATTRIBUTES)):
        documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))
        assert documented == {row.name: f"{row.mode:04o}" for row in rows} | {"device": "link"}
    for verb in VERBS.values():
        assert f"`{verb.usage}`" in document
