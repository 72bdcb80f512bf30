# SPDX-License-Identifier: GPL-2.0-or-later
"""status and metrics."""

from __future__ import annotations

from pathlib import Path

from lcfs.engine import CacheSpec, MountSpec
from lcfs.engine.stats import FULLSIZE, HIT, WRITE
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
        f"  lines     {7 * 255}, 2 dirty (0.1 %)",
        "  reads     1, 100.0 % hits",
        "  writes    2, 0.0 % hits",
        "  damage    5 lines did not match their checksum",
        "disk 1: running",
        "  errors    6 requests failed",
        "  name      first",
        "  cache     1, 2 dirty lines",
        "  loop      none",
        "disk 2: running, suspended",
        "  backing   /two.img",
        f"  size      {2 * MIB} bytes",
        "  loop      7:7",
    ):
        assert line in text.splitlines()


async def test_metrics_are_in_prometheus_form(world: World) -> None:
    world.cache.stats.counters[WRITE | HIT | FULLSIZE] = 42
    world.disk.nr_errors = 6
    world.disk.name = 'with "quotes" and \\'
    samples: dict[str, str] = {}
    described: list[str] = []
    for line in world.read("metrics").splitlines():
        if line.startswith("#"):
            _, keyword, name, rest = line.split(" ", 3)
            assert keyword in ("HELP", "TYPE")
            assert rest in ("gauge", "counter") or keyword == "HELP"
            described.append(name)
        else:
            key, value = line.rsplit(" ", 1)
            assert key.partition("{")[0] == described[-1] == described[-2]
            assert key not in samples
            samples[key] = value
    assert samples['lcfs_cache_requests_total{cache="1",write="1",hit="1",on_buffer="0",fullsize="1"}'] == "42"
    assert sum(key.startswith("lcfs_cache_requests_total") for key in samples) == 16
    assert samples['lcfs_cache_dirty_lines{cache="1"}'] == "0"
    assert samples['lcfs_cache_state{cache="1",state="running"}'] == "1"
    assert samples['lcfs_device_size_bytes{device="2"}'] == str(2 * MIB)
    assert samples['lcfs_device_errors_total{device="1"}'] == "6"
    assert samples['lcfs_device_errors_total{device="2"}'] == samples['lcfs_cache_crc_errors_total{cache="1"}'] == "0"
    escaped = r'name="with \"quotes\" and \\"'
    assert any(key.startswith("lcfs_device_info") and escaped in key for key in samples)


async def test_the_texts_need_no_disk_at_all(tmp_path: Path) -> None:
    spec = MountSpec(caches=(CacheSpec("/ssd.img", size=4 * MIB),), default_disk=False)
    async with open_world(tmp_path, spec) as world:
        assert world.names("devices") == set()
        assert "/ssd.img" in world.read("status")
        assert 'lcfs_cache_lines{cache="1"} 765' in world.read("metrics").splitlines()


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
