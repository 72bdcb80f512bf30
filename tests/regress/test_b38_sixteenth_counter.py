# SPDX-License-Identifier: GPL-2.0-or-later
"""B38: dm-lc's status left out the last counter, full-line write hits in RAM; lcfs shows all sixteen, in status and
stats."""

from __future__ import annotations

import os

import trio.testing

from tests.mount.harness import Lcfs
from tests.regress.support import LINE, MIB, Rig, lines, write

KEYS = [(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1) for i in range(16)]


def rows(text: str) -> list[tuple[int, ...]]:
    """The five numbers of each line."""
    return [tuple(int(word) for word in line.split()) for line in text.splitlines()]


async def test_all_sixteen_are_shown(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with rig.mounted({1: MIB}) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        for number in range(1 + 7):
            await write(disk, 0, lines(1, 0, 1, number))
        assert cache.stats.rows()[15] == 7
        shown = rows(cache.stats.text())
        assert [row[:4] for row in shown] == KEYS
        assert shown[15] == (1, 1, 1, 1, 7)
        await manager.message("switch_to 1")
        head, _, table = manager.status_text().partition("write? hit? on_buffer? fullsize?\n")
        assert "current cache_id_ptr: 1\n" in head
        assert rows(table) == shown


def test_all_sixteen_through_the_mount(lcfs: Lcfs) -> None:
    mnt = lcfs.mount("--device", "d.img,size=1M")
    file = os.open(mnt / "devices/1", os.O_RDWR)
    for number in range(1 + 7):
        os.pwrite(file, bytes([number]) * LINE, 0)
    os.close(file)
    shown = rows(lcfs.read("caches/1/stats"))
    assert [row[:4] for row in shown] == KEYS
    assert shown[15] == (1, 1, 1, 1, 7)
    _, _, table = lcfs.read("caches/1/status").partition("write? hit? on_buffer? fullsize?\n")
    assert rows(table) == shown
