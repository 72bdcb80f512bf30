# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that need a mount or a loop device: skipped with the reason where there is none, failed in CI.

A test under the marker `mount` or `loop` is skipped before it runs when the machine lacks what the marker needs. With
CI=true in the environment a skip of such a test, for whatever reason and from wherever, is turned into a failure.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.abc
import importlib.util
import os
import shutil
import sys
from collections.abc import Generator, Sequence
from types import ModuleType

import pytest

from tests.plugins.machine import in_ci

LOOP_CTL_GET_FREE = 0x4C82
"""<linux/loop.h>: number of a free loop device, made if there is none."""

LOOP_MAJOR = 7


@functools.cache
def lacks_mount() -> str | None:
    """What is missing to mount lcfs, in one sentence, or None."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed; install gcc, pkg-config and libfuse3-dev, then run make setup"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed; install fuse3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there for us; modprobe fuse, or give this container the device"
    return None


@functools.cache
def lacks_loop() -> str | None:
    """What is missing to bind a loop device, in one sentence, or None."""
    if os.geteuid() != 0:
        return "not root, so no loop device can be bound; run as root"
    if shutil.which("losetup") is None:
        return "losetup is not installed; install mount and util-linux"
    try:
        free_loop_device()
    except OSError as error:
        return f"no loop device to be had ({error}); modprobe loop, or give this container /dev/loop-control"
    return None


def free_loop_device() -> str:
    """`/dev/loopN` that is free at this moment, its node made if udev did not. Raises OSError."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    path = f"/dev/loop{number}"
    if not os.path.exists(path):
        os.mknod(path, 0o060600, os.makedev(LOOP_MAJOR, number))
    return path


REQUIREMENTS = {"mount": lacks_mount, "loop": lacks_loop}


def marked(item: pytest.Item) -> list[str]:
    """Which of the REQUIREMENTS this test has."""
    return [name for name in REQUIREMENTS if item.get_closest_marker(name)]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """A test that takes the fixture `lcfs` mounts, so it is marked `mount`."""
    for item in items:
        if "lcfs" in getattr(item, "fixturenames", ()):
            item.add_marker("mount")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is made."""
    for name in marked(item):
        if (lack := REQUIREMENTS[name]()) is not None:
            pytest.skip(lack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a skipped mount or loop test fails."""
    report = yield
    if report.skipped and in_ci() and marked(item) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a {' and '.join(marked(item))} test may not be skipped in CI: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, a module that skips itself fails: nobody can say which tests it hid."""
    report = yield
    if report.skipped and in_ci():
        report.outcome = "failed"
        report.longrepr = f"a module may not skip itself in CI: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)


class _SkipWithoutPyfuse3(importlib.abc.MetaPathFinder):
    """Last on sys.meta_path, so asked for pyfuse3 only when it is not installed: skips the importing test module."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pyfuse3":
            pytest.skip(str(lacks_mount()), allow_module_level=True)


def pytest_configure() -> None:
    """Let the tests that need no pyfuse3 run where it could not be built; in CI its absence stays an error."""
    if importlib.util.find_spec("pyfuse3") is None and not in_ci():
        lacks_mount()  # remembers its answer, which asks sys.meta_path too
        sys.meta_path.append(_SkipWithoutPyfuse3())
