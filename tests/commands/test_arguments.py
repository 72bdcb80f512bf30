# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and ids, as a person may type them."""

import argparse

import pytest

from lcfs.commands import arguments
from lcfs.commands.arguments import parse_id, parse_size
from lcfs.engine.geometry import MAX_ID


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("4096", 4096),
        ("007", 7),
        ("1K", 1 << 10),
        ("2m", 2 << 20),
        ("256M", 256 << 20),
        ("3G", 3 << 30),
        ("1t", 1 << 40),
        ("8388607T", 8388607 << 40),
        ("9223372036854775807", (1 << 63) - 1),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert parse_size(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "0",
            "0G",
            "-1",
            "+1",
            "1.5G",
            "1,5G",
            "0x10",
            "1e9",
            "1_000",
            "1 G",
            " 1G",
            "1G\n",
            "GG",
            "K",
            "1KB",
        ),
        *("1KiB", "1P", "\u0661", "²", "9223372036854775808", "8388608T", "9" * 25, "abc", "1G1"),
    ],
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="size ") as refused:
        parse_size(text)
    assert repr(text) in str(refused.value)


def test_ids_are_those_of_the_engine() -> None:
    assert arguments.LAST_ID == MAX_ID
    assert parse_id("1", what="disk") == 1
    assert parse_id(str(MAX_ID), what="disk") == MAX_ID
    assert parse_id("0", what="cache", lowest=0) == 0


@pytest.mark.parametrize("text", ["0", "255", "-1", "abc", "", "+1", "1 ", "0x1", "1.0", "²", "9" * 30])
def test_ids_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"disk id .* is not a number from 1 to 254"):
        parse_id(text, what="disk")


@pytest.mark.parametrize("text", ["", "a\nb", "a\0b"])
def test_paths_that_no_message_can_carry(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give another path"):
        arguments.path(text)
