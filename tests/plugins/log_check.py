# SPDX-License-Identifier: GPL-2.0-or-later
"""A test fails when lcfs logs a warning or worse that it did not announce, and when one it announced does not come.

    def test_torn_header(expect_log):
        expect_log(r"superblock 1 of .* is damaged")
        ...

After s3ql's pytest_checklogs. Only this process's records count; a daemon's log is in `Lcfs.log`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from typing import Protocol

import attrs
import pytest

LOGGER = "lcfs"


@attrs.define
class Expectation:
    """Records that a test announced: a pattern searched in the message, and how many at least."""

    pattern: re.Pattern[str]
    level: int
    at_least: int
    records: list[logging.LogRecord] = attrs.field(factory=list)

    def takes(self, record: logging.LogRecord) -> bool:
        """Whether `record` is one of these, which is then counted."""
        if record.levelno < self.level or self.pattern.search(record.getMessage()) is None:
            return False
        self.records.append(record)
        return True


class ExpectLog(Protocol):
    """The fixture `expect_log`."""

    def __call__(self, pattern: str, *, level: int = logging.WARNING, at_least: int = 1) -> Expectation: ...


class _Watch(logging.Handler):
    """The records of one test that nobody announced yet."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.strays: list[logging.LogRecord] = []
        self.expectations: list[Expectation] = []

    def emit(self, record: logging.LogRecord) -> None:
        takers = [expectation for expectation in self.expectations if expectation.takes(record)]
        if not takers:
            self.strays.append(record)

    def expect(self, pattern: str, *, level: int = logging.WARNING, at_least: int = 1) -> Expectation:
        """Announce records; may be called after they came. `at_least=0`: they may come."""
        expectation = Expectation(re.compile(pattern), level, at_least)
        self.strays = [record for record in self.strays if not expectation.takes(record)]
        self.expectations.append(expectation)
        return expectation

    def waive(self) -> None:
        """From here on, what was announced may come and need not."""
        for expectation in self.expectations:
            expectation.at_least = 0

    def verify(self) -> None:
        """Fail the test for what came unannounced and for what did not come; each is said once."""
        complaints = [
            f"unexpected {record.levelname} of {record.name}: {record.getMessage()}"
            + (f" ({record.exc_info[1]!r})" if record.exc_info else "")
            for record in self.strays
        ] + [
            f"expected {e.at_least} log record(s) matching {e.pattern.pattern!r}, got {len(e.records)}"
            for e in self.expectations
            if len(e.records) < e.at_least
        ]
        self.strays.clear()
        self.waive()
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)


_watch_key = pytest.StashKey[_Watch]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Listen before the first fixture is made."""
    item.stash[_watch_key] = watch = _Watch()
    logging.getLogger(LOGGER).addHandler(watch)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that passed so far fails for its log."""
    result = yield
    item.stash[_watch_key].verify()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """What the fixtures log while they are taken down counts too."""
    watch = item.stash[_watch_key]
    strays_of_a_failed_test = bool(watch.strays)
    try:
        result = yield
    finally:
        logging.getLogger(LOGGER).removeHandler(watch)
    if not strays_of_a_failed_test:
        watch.waive()
        watch.verify()
    return result


@pytest.fixture
def expect_log(request: pytest.FixtureRequest) -> ExpectLog:
    """Announce warnings (or worse) of lcfs; without it each of them fails the test."""
    expect: ExpectLog = request.node.stash[_watch_key].expect
    return expect
