# SPDX-License-Identifier: GPL-2.0-or-later
"""The run fails when it leaves a mount or a loop device behind.

Every test works in pytest's temporary directory, so whatever is mounted below it, or bound to a file below it, is of
this run. Loop devices that `Lcfs` bound are known by name as well, because one whose mount was torn away no longer
shows where its file was.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.machine import loop_devices, loop_devices_under, mounts_under

bound_by_this_run: set[str] = set()
"""`/dev/loopN` that a fixture bound and has not let go."""


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Made before, so taken down after, every other fixture."""
    top = tmp_path_factory.getbasetemp()
    yield
    complaints = [
        f"{mount.kind} mounted on {mount.where}; umount {mount.where}" for mount in reversed(mounts_under(top))
    ]
    bound = loop_devices_under(top) | {
        device: file for device, file in loop_devices().items() if device in bound_by_this_run
    }
    complaints += [f"{device} bound to {file}; losetup -d {device}" for device, file in bound.items()]
    if complaints:
        pytest.fail("the tests left behind:\n" + "\n".join(complaints), pytrace=False)
