# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of the rate of long work."""

from lcfs.commands.pace import WINDOW, Pace, segments


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_remaining_time() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace(100_000) == ""
    clock.now += 0.5
    assert pace(99_000) == "", "too early"
    clock.now += 1.5
    assert pace(100_000 - 2 * 512) == ", 2.0 MiB/s, 3:13 left"
    clock.now += 8
    assert pace(20_000) == ", 31.2 MiB/s, 0:02 left"


def test_hours_and_other_units() -> None:
    clock = Clock()
    pace = Pace(segments, clock)
    pace(8000)
    clock.now += 10
    assert pace(7990) == ", 1.0 segments/s, 2:13:10 left"


def test_only_the_last_seconds_count() -> None:
    clock = Clock()
    pace = Pace(segments, clock)
    left = 100_000
    for _ in range(50):
        pace(left)
        clock.now += 1
        left -= 1000
    for _ in range(int(WINDOW) + 2):
        said = pace(left)
        clock.now += 1
        left -= 10
    assert said.startswith(", 10.0 segments/s")


def test_nothing_while_there_is_more_to_do_than_before() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace(10)
    clock.now += 5
    assert pace(10) == pace(20) == ""
