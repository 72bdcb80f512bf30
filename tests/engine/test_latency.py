# SPDX-License-Identifier: GPL-2.0-or-later
"""The histograms of request times, and where a request is served from."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from lcfs.engine.geometry import LINE, SECTOR
from lcfs.engine.latency import (
    BACKING,
    BARRIER,
    BOUNDS,
    IMAGE,
    NR_GAPS,
    RAM,
    READ,
    SAMPLED,
    WRITE,
    Latency,
    random_gaps,
)
from tests.regress.support import Rig, lines

MICROSECOND = 1000
SECOND = 1_000_000_000


def test_bounds_are_powers_of_two_from_2_us_to_16_8_s() -> None:
    assert (BOUNDS[0], BOUNDS[1], BOUNDS[-1], len(BOUNDS)) == (2e-6, 4e-6, 16.777216, 24)
    assert all(after == 2 * before for before, after in itertools.pairwise(BOUNDS))


@pytest.mark.parametrize(
    ("nanoseconds", "bound"),
    [(0, 2e-6), (1, 2e-6), (2000, 2e-6), (2001, 4e-6), (4000, 4e-6), (4001, 8e-6), (SECOND, 1.048576)]
    + [(round(bound * 1e9), bound) for bound in BOUNDS]
    + [(round(bound * 1e9) + 1, 2 * bound) for bound in BOUNDS[:-1]],
)
def test_a_time_is_within_the_least_bound_that_is_no_less(nanoseconds: int, bound: float) -> None:
    latency = Latency()
    latency.add(READ, IMAGE, nanoseconds)
    (histogram,) = latency.histograms()
    assert histogram.within == tuple(int(other >= bound) for other in BOUNDS)


def test_what_takes_longer_than_the_last_bound_is_only_counted() -> None:
    latency = Latency()
    for nanoseconds in (round(BOUNDS[-1] * 1e9) + 1, 3600 * SECOND):
        latency.add(WRITE, BACKING, nanoseconds)
    (histogram,) = latency.histograms()
    assert (set(histogram.within), histogram.count) == ({0}, 2)


def test_each_operation_and_source_is_by_itself() -> None:
    latency = Latency()
    assert list(latency.histograms()) == []
    latency.add(READ, RAM, 3 * MICROSECOND, SAMPLED)
    latency.add(READ, RAM, 5 * SECOND)
    latency.add(WRITE, BACKING, 7 * MICROSECOND, 2)
    latency.add(BARRIER, IMAGE, SECOND)
    found = {(h.operation, h.source): (h.count, h.seconds) for h in latency.histograms()}
    assert found == {
        ("read", "ram"): (33, 32 * 3e-6 + 5),
        ("write", "backing"): (2, 14e-6),
        ("barrier", "image"): (1, 1.0),
    }


def test_gaps_see_both_halves_of_a_load_that_alternates() -> None:
    gaps = list(itertools.islice(random_gaps(), NR_GAPS))
    assert (min(gaps), max(gaps)) == (1, 2 * SAMPLED - 1)
    assert 0.9 * SAMPLED < sum(gaps) / len(gaps) < 1.1 * SAMPLED
    timed = Counter(position % 2 for position in itertools.accumulate(gaps))
    assert 0.8 < timed[0] / timed[1] < 1.25


async def test_where_a_read_is_served_from() -> None:
    rig = Rig()
    rig.add_backing(1, lines(1, 0, 256, 1))
    async with rig.mounted({1: 256 * LINE}) as manager:
        disk, cache = manager.devices[1], manager.caches[1]
        assert disk.read_source(0, LINE) == disk.read_source(0, 256 * LINE) == BACKING
        await disk.write(0, lines(1, 0, 64, 2))
        assert disk.read_source(0, LINE) == disk.read_source(SECTOR, 5) == disk.read_source(0, 64 * LINE) == RAM
        assert disk.read_source(63 * LINE, 2 * LINE) == disk.read_source(0, 65 * LINE) == BACKING
        await disk.flush()
        assert disk.read_source(0, 64 * LINE) == RAM  # durable, and still in its buffer
        cache.close_segment()
        await disk.flush()
        while cache.nr_ram_segments:
            await cache.flush_current_buffer()
        assert disk.read_source(0, LINE) == disk.read_source(0, 64 * LINE) == IMAGE
        await disk.write(LINE, lines(1, 1, 1, 3))
        assert disk.read_source(LINE, LINE) == RAM
        assert disk.read_source(0, 2 * LINE) == disk.read_source(0, 64 * LINE) == IMAGE
        await disk.write(100 * LINE, bytes(SECTOR))
        assert disk.read_source(100 * LINE, SECTOR) == BACKING  # its other sectors come from there
        assert disk.read_source(256 * LINE, LINE) == disk.read_source(1 << 40, 64 * LINE) == RAM  # past the end: nothing
        assert (disk.write_source(), disk.barrier_source()) == (RAM, IMAGE)
        await manager.detach(1)
        assert {disk.read_source(0, LINE), disk.write_source(), disk.barrier_source()} == {BACKING}
