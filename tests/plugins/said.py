# SPDX-License-Identifier: GPL-2.0-or-later
"""What sweeps and simulations have run is said at the end of the test run."""

from collections.abc import Callable

import pytest

_counts = pytest.StashKey[list[str]]()


@pytest.fixture
def say_at_the_end(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Put a text in the summary of the run."""
    return request.config.stash.setdefault(_counts, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the tests."""
    for text in terminalreporter.config.stash.get(_counts, []):
        terminalreporter.section("campaigns")
        terminalreporter.write_line(text)
