# SPDX-License-Identifier: GPL-2.0-or-later
"""status and segments."""

from __future__ import annotations

from pathlib import Path

from lcfs.engine import CacheSpec, MountSpec
from lcfs.sysfs_tree import VALUE_MAX
from tests.tree.world import MIB, World, open_world


async def test_status_tells_a_person(world: World) -> None:
    world.bind(7, "/mnt/lc/devices/2")
    await world.disk.write(0, bytes(8192))
    await world.disk.read(0, 4096)
    await world.message("suspend 2")
    world.cache.crc_errors = 5
    world.disk.nr_errors = 6
    text = world.read("status")
    for line in (
        "cache 1: running",
        "  image     /ssd.img",
        f"  dirty     2 of {7 * 255} lines (0.1 %), log in 1 of 7 segments",
        "  migration idle",
        "  hits      100.0 % of 1 reads, 0.0 % of 2 writes",
        "  errors    5 lines did not match their checksum, 0 reads failed",
        "disk 1: running",
        "  cache 1, 2 dirty lines, load 0 of 70 %, loop none, 6 requests failed",
        "disk 2: running, suspended",
        f"  disk2, {2 * MIB} bytes, on /two.img",
        "  cache 1, 0 dirty lines, load 0 of 70 %, loop 7:7, 0 requests failed",
    ):
        assert line in text.splitlines()


async def test_status_needs_no_disk_at_all(tmp_path: Path) -> None:
    spec = MountSpec(caches=(CacheSpec("/ssd.img", size=4 * MIB),), default_disk=False)
    async with open_world(tmp_path, spec) as world:
        assert world.names("devices") == set()
        assert "/ssd.img" in world.read("status")


async def test_segments_tell_where_the_log_is(world: World) -> None:
    assert world.read("caches/1/segments") == "nr_segments 7\ntail 1\nflushed 0\ncurrent 0\n7 free 0\n"
    await world.disk.write(0, bytes(51 * 4096))
    assert world.read("caches/1/segments") == "nr_segments 7\ntail 1\nflushed 0\ncurrent 1\n1 open 20\n6 free 0\n"
    await world.store("caches/1/flush_current_buffer", b"1")
    await world.store("caches/1/drop_caches", b"1")
    assert world.read("caches/1/segments") == "nr_segments 7\ntail 2\nflushed 1\ncurrent 1\n1 clean 0\n6 free 0\n"


async def test_segments_of_a_large_cache_fit_a_page(tmp_path: Path) -> None:
    spec = MountSpec(caches=(CacheSpec("/ssd.img", size=4 << 30),), default_disk=False)
    async with open_world(tmp_path, spec) as world:
        geometry = world.cache.geometry
        world.cache.states.valid_array[geometry.first_block :: 3 * geometry.blocks_per_segment] = 1
        text = world.read("caches/1/segments")
        assert len(text) < VALUE_MAX
        head, runs = text.splitlines()[:4], text.splitlines()[4:]
        assert head[0] == f"nr_segments {geometry.nr_segments}"
        assert sum(int(run.split()[0]) for run in runs) == geometry.nr_segments
