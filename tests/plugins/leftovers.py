# SPDX-License-Identifier: GPL-2.0-or-later
"""The run fails when it leaves a mount or a loop device behind.

Every test works in pytest's temporary directory, so whatever is mounted below it, or bound to a file below it, is of
this run. Loop devices that `Lcfs` bound are remembered as well, because one whose mount was torn away no longer shows
where its file was. The kernel numbers every binding (diskseq, Linux 5.15), so a device that was let go and is somebody
else's by now is not taken for ours.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.machine import diskseq, loop_devices, loop_devices_under, mounts_under

_bound: dict[str, int] = {}
"""`/dev/loopN` -> its diskseq when this run bound it."""


def remember_bound(device: str) -> None:
    """`device` was bound by this run just now."""
    _bound[device] = diskseq(device)


def bound_and_remembered() -> set[str]:
    """`/dev/loopN` of those this run bound that are bound as they were then."""
    bound = loop_devices()
    return {device for device, number in _bound.items() if device in bound and diskseq(device) == number}


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Made before, so taken down after, every other fixture."""
    top = tmp_path_factory.getbasetemp()
    yield
    complaints = [f"{mount.kind} mounted on {mount.where}; umount {mount.where}" for mount in reversed(mounts_under(top))]
    bound = loop_devices_under(top)
    complaints += [f"{device} bound to {file}; losetup -d {device}" for device, file in bound.items()]
    complaints += [f"{device} bound to a file whose mount is gone" for device in sorted(bound_and_remembered() - set(bound))]
    if complaints:
        pytest.fail("the tests left behind:\n" + "\n".join(complaints), pytrace=False)
