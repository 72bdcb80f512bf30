# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture `lcfs`, with which tests mount for real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs
from tests.mount.takedown import take_down


@pytest.fixture
def lcfs(tmp_path: Path) -> Iterator[Lcfs]:
    """An empty directory to run lcfs in; whatever is mounted or bound there is gone after the test."""
    instance = Lcfs(tmp_path)
    yield instance
    take_down(instance)
