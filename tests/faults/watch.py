# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks on while trio runs: notices tasks that spin, and counts steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from lcfs.testing import Violation

MOST_STEPS = 200_000
"""Steps of tasks in one case: a hundred times what the longest needs."""


class StepWatch(trio.abc.Instrument):
    """Calls `on_step(task)` after each step of a task, when the task has come to its next checkpoint."""

    def __init__(self, on_step: Callable[[trio.lowlevel.Task], None]) -> None:
        self._on_step = on_step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._on_step(task)


@asynccontextmanager
async def watched_steps(on_step: Callable[[trio.lowlevel.Task], None]) -> AsyncIterator[None]:
    """While this is open."""
    watch = StepWatch(on_step)
    trio.lowlevel.add_instrument(watch)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(watch)


@asynccontextmanager
async def no_spinning(most: int = MOST_STEPS) -> AsyncIterator[None]:
    """Raises Violation when what runs inside takes more steps than that: time stands still while a task spins."""
    steps = 0
    too_many = trio.Event()

    def count(task: trio.lowlevel.Task) -> None:
        nonlocal steps
        steps += 1
        if steps == most:
            too_many.set()

    async def watch() -> None:
        await too_many.wait()
        raise Violation("R6", 0, 0, f"something spins: {most} steps and no end")

    async with watched_steps(count), trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()
