# SPDX-License-Identifier: GPL-2.0-or-later
"""Trio, run one call at a time from synchronous code, the same way each time.

A Hypothesis state machine has synchronous rules; the engine's daemons live on from rule to rule. Trio's
guest mode lets the rules be the host: nothing in the loop moves while no call is made. Time is a mock
clock's that jumps when everybody waits, and the order of tasks is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio
import trio.testing
from trio._core import _run

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

IDLE_TICKS = 50
"""Rounds of the loop without a runnable task or a deadline, after which a call is hung for good."""

LONGEST_CALL = 100_000.0
"""Seconds of the mock clock, after which a call is hung though timers still go off."""


class Hung(AssertionError):
    """A call waits for what never happens: nothing can run and no timer is set, or too many have gone off."""


def make_deterministic(seed: int) -> None:
    """Let `seed` decide the order in which trio runs its tasks from now on, in this process."""
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r = random.Random(seed)


class Stepper:
    """A trio loop that runs only inside `run`. `close` it, or leave the `with` block, when done.

    `nursery` outlives the calls: daemons started in it go on with the next one. When one of them fails,
    the error is raised by the call during which it does.
    """

    def __init__(self, seed: int = 0) -> None:
        make_deterministic(seed)
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.nursery: trio.Nursery
        self._callbacks: deque[Callable[[], object]] = deque()
        self._ended: outcome.Outcome[None] | None = None
        self._ready = False
        self._calls: trio.MemorySendChannel[Callable[[], Awaitable[None]]]
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._callbacks.append,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )
        self._pump(lambda: self._ready)

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Call an async function and turn the loop until it returns; its exceptions come out here.

        Raises Hung when it never will.
        """
        result: list[outcome.Outcome[T]] = []

        async def call() -> None:
            result.append(await outcome.acapture(function, *args))

        self._token.run_sync_soon(self._start, call)
        self._pump(lambda: bool(result))
        if isinstance(result[0], outcome.Error) and isinstance(result[0].error, trio.Cancelled):
            self._pump(lambda: False)
        return result[0].unwrap()

    def close(self) -> None:
        """Cancel what still runs and end the loop."""
        if self._ended is None:
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
            self._pump(lambda: self._ended is not None)

    def _start(self, call: Callable[[], Awaitable[None]]) -> None:
        self.nursery.start_soon(call)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery:
            self._ready = True
            await trio.sleep_forever()

    def _done(self, ended: outcome.Outcome[Any]) -> None:
        self._ended = ended

    def _pump(self, until: Callable[[], bool]) -> None:
        idle = 0
        end = self.clock.current_time() + LONGEST_CALL
        while not until():
            if self._ended is not None:
                self._ended.unwrap()
                raise Hung("the loop ended before the call did")
            self._callbacks.popleft()()
            runner = getattr(_run.GLOBAL_RUN_CONTEXT, "runner", None)
            if runner is None:
                continue
            waiting = not runner.runq and runner.deadlines.next_deadline() == float("inf")
            idle = idle + 1 if waiting else 0
            if idle > IDLE_TICKS:
                raise Hung("the call waits for what never happens")
            if self.clock.current_time() > end:
                raise Hung(f"the call has not ended after {LONGEST_CALL} s")
