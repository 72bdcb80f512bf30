# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture `world`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tree.world import TWO_DISKS, World, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Cache 1 with disks 1 and 2."""
    async with open_world(tmp_path, TWO_DISKS) as opened:
        yield opened
