# SPDX-License-Identifier: GPL-2.0-or-later
import resource
from pathlib import Path

import numpy as np
import pytest

from lcfs.engine.lookup import LineStates, LineTable, anonymous


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_zero_and_at_least_a_page() -> None:
    assert bytes(anonymous(0)) == bytes(4096)
    assert len(anonymous(5000)) >= 5000


def test_subscript_and_array_are_the_same_memory() -> None:
    table = LineTable(1000)
    table.index[7] = (1 << 32) - 1
    assert table.array[7] == (1 << 32) - 1
    table.array[8:10] = [5, 6]
    assert table.index[8:10].tolist() == [5, 6]
    assert type(table.index[8]) is int


COLUMNS = [("line", 1 << 32), ("crc", 1 << 32), ("device", 256), ("dirty", 256), ("valid", 256)]


@pytest.mark.parametrize(("name", "limit"), COLUMNS)
def test_a_line_state_holds_its_range_in_both_views(name: str, limit: int) -> None:
    states = LineStates(300)
    view, array = getattr(states, name), getattr(states, f"{name}_array")
    assert not array.any()
    view[299] = limit - 1
    assert array[299] == limit - 1
    array[1] = 9
    assert view[1] == 9
    with pytest.raises(ValueError, match="format"):
        view[0] = limit
    assert np.count_nonzero(array) == 2


def test_the_columns_share_no_memory() -> None:
    states = LineStates(1024)
    states.line[0] = states.crc[0] = 0xFFFFFFFF
    states.device[0] = states.dirty[0] = 255
    assert states.valid[0] == 0
    for column in (states.line, states.crc, states.device, states.dirty, states.valid):
        assert not any(column[1:])


def test_untouched_memory_takes_no_room() -> None:
    before = resident()
    table = LineTable(1 << 28)
    table.index[0] = table.index[(1 << 28) - 1] = 1
    states = LineStates(1 << 26)
    states.line[1 << 25] = 1
    assert resident() - before < 50 << 20
