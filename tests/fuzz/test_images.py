# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole images with bytes changed, ranges zeroed, moved or cut off: everything that reads an image copes."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from lcfs.engine.geometry import LINE
from lcfs.testing.explore import in_trio
from tests.fuzz.image import LOG, World0, image_of, make_world, try_everything
from tests.fuzz.mutations import ROUNDS

MOST_MEMORY = 192 << 20
"""Bytes that reading an image of a MiB and a half may take at most, most of them the tables of its ring."""


@pytest.fixture(scope="module")
def world() -> World0:
    return in_trio(make_world)


def ruin(image: bytearray, rng: random.Random) -> bytes:
    """One to four things done to it, most of them where there is something."""
    changed = bytearray(image)
    for _ in range(rng.randint(1, 4)):
        start = rng.choice((rng.randrange(1024), 524288 + rng.randrange(1024), LOG + rng.randrange(32 * LINE)))
        start = min(start, max(len(changed) - 1, 0))
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[start : start + rng.choice((1, 512, LINE))] = b""
            changed += bytes(len(image) - len(changed))
        elif kind == 2:
            length = min(rng.choice((512, LINE, 8 * LINE)), len(changed) - start)
            changed[start : start + length] = bytes(length)
        elif kind == 3:
            # another block of the log in its place: whole, and in the wrong one
            other = LOG + rng.randrange(32) * LINE
            here = LOG + rng.randrange(32) * LINE
            changed[here : here + LINE] = image[other : other + LINE]
        elif kind == 4:
            length = min(512, len(changed) - start)
            changed[start : start + length] = rng.randbytes(length)
        elif rng.random() < 0.3:
            del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


@pytest.mark.timeout(1200)
def test_ruined_images(world: World0, expect_log: object) -> None:
    image = image_of(world)
    ends = {"refused": 0, "taken": 0}
    tracemalloc.start()
    try:
        for number in range(ROUNDS * 5):
            ruined = ruin(image, random.Random(number))
            try:
                ends[in_trio(lambda ruined=ruined: try_everything(world, ruined, trusted=True))] += 1
            except BaseException as exc:
                raise AssertionError(f"image number {number}") from exc
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert min(ends.values()) > ROUNDS / 4, ends
