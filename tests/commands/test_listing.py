# SPDX-License-Identifier: GPL-2.0-or-later
"""Listings: util-linux's JSON, aligned text."""

import json

import pytest

from lcfs.commands.listing import print_json, print_table


def test_json_has_one_plural_key(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("disks", [{"id": 1, "size": 1 << 40, "pid": None}])
    assert json.loads(capsys.readouterr().out) == {"disks": [{"id": 1, "size": 1099511627776, "pid": None}]}


def test_nothing_is_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("disks", [])
    assert json.loads(capsys.readouterr().out) == {"disks": []}


def test_numbers_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "count"), [["a", 1], ["long", 1000]])
    assert capsys.readouterr().out == "name  count\na         1\nlong   1000\n"
