# SPDX-License-Identifier: GPL-2.0-or-later
from lcfs.engine.stats import FULLSIZE, HIT, ON_BUFFER, WRITE, Stats


def test_rows_are_in_the_index_order_of_dm_lc() -> None:
    stats = Stats()
    for index in range(16):
        stats.counters[index] = 100 + index
    assert stats.rows() == tuple(range(100, 116))
    lines = stats.text().splitlines()
    assert len(lines) == 16
    assert lines[WRITE] == "1 0 0 0 101"
    assert lines[HIT] == "0 1 0 0 102"
    assert lines[ON_BUFFER] == "0 0 1 0 104"
    assert lines[FULLSIZE] == "0 0 0 1 108"
    assert lines[WRITE | HIT | ON_BUFFER | FULLSIZE] == "1 1 1 1 115"
    assert stats.text().endswith("\n")


def test_rows_are_a_picture_that_later_counts_do_not_change() -> None:
    stats = Stats()
    rows = stats.rows()
    stats.counters[3] += 1
    assert rows == (0,) * 16
    assert stats.rows()[3] == 1


def test_clear_keeps_the_list_that_the_hot_path_holds() -> None:
    stats = Stats()
    held = stats.counters
    held[0] += 1
    stats.clear()
    assert stats.rows() == (0,) * 16
    held[5] += 1
    assert stats.rows()[5] == 1
