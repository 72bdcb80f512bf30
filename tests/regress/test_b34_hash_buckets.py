# SPDX-License-Identifier: GPL-2.0-or-later
"""B34: dm-lc hashed sector numbers, all multiples of 8, and no disk id, so that an eighth of its buckets held the lines
of all disks; in lcfs each disk has a table with a place of its own for every line."""

from __future__ import annotations

import numpy as np
import trio.testing

from tests.regress.support import LINE, MIB, Rig, lines, one_cache, read, write


async def test_every_line_has_its_place(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    # 16 segments: 8 divides the number of lines, and with it what dm-lc took the hash by
    async with rig.mounted(one_cache({1: 16 * MIB, 2: 16 * MIB}, 17 * MIB)) as manager:
        cache = manager.caches[1]
        assert cache.nr_segments % 8 == 0
        spread = range(0, 4096, 8)
        for number, disk in manager.devices.items():
            for line in spread:
                await write(disk, line * LINE, lines(number, line, 1, 1))
        tables = [disk.table.array for disk in manager.devices.values()]
        for disk, table in zip(manager.devices.values(), tables, strict=True):
            assert len(disk.table.index) == disk.nr_lines
            assert np.flatnonzero(table).tolist() == list(spread)
        assert len(np.unique(np.concatenate([table[table != 0] for table in tables]))) == 2 * len(spread)
        for number, disk in manager.devices.items():
            assert await read(disk, 8 * LINE, LINE) == lines(number, 8, 1, 1)
