# SPDX-License-Identifier: GPL-2.0-or-later
"""Every planted bug is found; where nothing is planted, nothing is."""

from __future__ import annotations

import pytest

from lcfs.engine.device import Device
from tests.planted.__main__ import hunt, row_of
from tests.planted.bugs import BUGS, CHECKERS, LISTED, UNPLANTABLE, Bug
from tests.planted.edit import Edit, Unplantable, planted


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_it_is_found(bug: Bug, caplog: pytest.LogCaptureFixture) -> None:
    finding = hunt(bug)
    assert finding is not None, f"{bug.name}, {bug.what}: not found"
    assert finding.kind in bug.expected, finding.text


@pytest.mark.parametrize("bug", [bug for bug in BUGS if not bug.finder.drawn], ids=lambda bug: bug.name)
def test_the_same_look_finds_nothing_where_nothing_is_planted(bug: Bug) -> None:
    """What is explored at random is done by tests/crash with a larger budget."""
    finding = bug.finder.look(briefly=True)
    assert finding is None, finding


def test_every_bug_of_the_list_has_a_row_or_a_reason() -> None:
    rows = {bug.name.split()[0] for bug in BUGS}
    assert {f"B{number:02}" for number in LISTED} == {name for name in rows if name.startswith("B")} | UNPLANTABLE.keys()


def test_every_checker_is_tripped_by_a_bug() -> None:
    names = {bug.name for bug in BUGS}
    assert {f"R{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10)} == CHECKERS.keys()
    assert set(CHECKERS.values()) <= names


def test_an_edit_that_does_not_fit_any_more_says_so() -> None:
    before = Device.flush.__code__
    with pytest.raises(Unplantable, match=r"Device.flush has 0 times: 'no such text'"):
        with planted([Edit(Device.flush, "no such text", "")]):
            raise AssertionError("never planted")
    assert Device.flush.__code__ is before


def test_afterwards_the_engine_is_what_it_was() -> None:
    before = Device.flush.__code__
    with planted([Edit(Device.flush, "if self.readonly:", "if True:")]):
        assert Device.flush.__code__ is not before
    assert Device.flush.__code__ is before


def test_a_row_that_is_missed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.planted.__main__.hunt", lambda bug: None)
    assert (row_of("B01").found, row_of("B01").good) == ("not found", False)
