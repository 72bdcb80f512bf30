# SPDX-License-Identifier: GPL-2.0-or-later
import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcfs.engine.errors import Invalid, LcfsError, OutOfRange
from lcfs.engine.tunables import MIGRATE_THRESHOLD, TUNABLES, Tunable, defaults, parse_unsigned

EVERY = [*TUNABLES.values(), MIGRATE_THRESHOLD]
named = pytest.mark.parametrize("tunable", EVERY, ids=lambda tunable: tunable.name)


def test_names_defaults_and_ranges() -> None:
    assert {row.name: (row.default, row.low, row.high) for row in EVERY} == {
        "allow_migrate": (0, 0, 1),
        "force_migrate": (0, 0, 1),
        "nr_max_batched_migration": (32, 1, 256),
        "barrier_deadline_ms": (3, 1, 1000),
        "flush_current_buffer_interval": (0, 0, 3600),
        "commit_super_block_interval": (0, 0, 3600),
        "update_interval": (1, 0, 3600),
        "migrate_threshold": (70, 0, 100),
    }


@named
def test_a_range_includes_its_ends_and_nothing_beyond(tunable: Tunable) -> None:
    for value in (tunable.low, tunable.high, tunable.default):
        assert tunable.check(value) == value
    for value in (tunable.low - 1, tunable.high + 1, 1 << 64):
        with pytest.raises(Invalid, match=rf"{tunable.name} takes {tunable.low} to {tunable.high}, not {value}$") as caught:
            tunable.check(value)
        assert caught.value.errno == errno.EINVAL


def test_each_set_of_defaults_is_its_own() -> None:
    one = defaults()
    one["allow_migrate"] = 1
    assert defaults()["allow_migrate"] == 0
    assert list(one) == list(TUNABLES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1\n", 1),
        ("+7", 7),
        ("+7\n", 7),
        ("007", 7),
        ("0" * 100 + "5", 5),
        (str((1 << 64) - 1), (1 << 64) - 1),
        ("000000000018446744073709551615\n", (1 << 64) - 1),
    ],
)
def test_what_kstrtoul_takes(text: str, value: int) -> None:
    assert parse_unsigned(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", " 1", "1 ", "1\n\n", "\n1", "-1", "-0", "--1", "++1", "+-1", "+", "1 1", "\t1", "1\0", "1\r\n"),
        *("0x10", "1k", "1e3", "1.0", "1_0", "one", "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}"),
    ],
)
def test_what_kstrtoul_refuses(text: str) -> None:
    with pytest.raises(Invalid, match="is not an unsigned decimal number") as caught:
        parse_unsigned(text)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("text", [str(1 << 64), "9" * 21, "9" * 5000, "+18446744073709551616\n"])
def test_more_than_64_bits_is_erange(text: str) -> None:
    with pytest.raises(OutOfRange, match="does not fit 64 bits") as caught:
        parse_unsigned(text)
    assert caught.value.errno == errno.ERANGE
    assert len(str(caught.value)) < 120


@given(st.text(max_size=24))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    try:
        value = parse_unsigned(text)
    except LcfsError:
        if (match := re.fullmatch(r"\+?([0-9]+)\n?", text)) is not None:
            assert int(match[1]) >= 1 << 64
    else:
        assert 0 <= value == int(text)


@given(st.integers(0, 1 << 70))
def test_a_number_written_out_comes_back(value: int) -> None:
    if value < 1 << 64:
        assert parse_unsigned(f"{value}\n") == value
    else:
        with pytest.raises(OutOfRange):
            parse_unsigned(f"{value}\n")
