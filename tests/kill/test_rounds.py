# SPDX-License-Identifier: GPL-2.0-or-later
"""A few rounds of `make kill`, and that a round can fail."""

import random
from pathlib import Path

import pytest

from tests.kill.case import Case, DaemonUnderTest, Violation
from tests.kill.kinds import play
from tests.kill.writers import Files
from tests.mount.takedown import take_down

pytestmark = [pytest.mark.mount, pytest.mark.loop, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("kind", "cut"),
    [("ext4", "kill"), ("ext4", "power"), ("xfs", "power"), ("sqlite-wal", "power"), ("sqlite-rollback", "kill")],
)
def test_round(kind: str, cut: str, tmp_path: Path) -> None:
    (outcome,) = play(tmp_path, kind, cut, random.Random(f"{kind} {cut}"), rounds=1, longest=1.0)
    assert outcome.commits > 0


def test_disks_that_lie_are_found_out(tmp_path: Path) -> None:
    """With flushes that do nothing the same round loses commits, and says which; or lcfs itself sees that the table it is
    left with is older than the mark on the backing."""
    (tmp_path / "aside").mkdir()
    lcfs = DaemonUnderTest(tmp_path, "lying")
    case = Case(lcfs, Files(tmp_path / "aside"), random.Random(1))
    try:
        case.set_up()
        (tmp_path / "lie").touch()
        found = r"is of 0, not of|acknowledged and not there|in use under another cache"
        with pytest.raises((Violation, pytest.fail.Exception), match=found):
            case.round(longest=0.5)
    finally:
        case.abandon()
        take_down(lcfs)
