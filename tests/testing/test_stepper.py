# SPDX-License-Identifier: GPL-2.0-or-later
import pytest
import trio

from lcfs.testing.stepper import Hung, Stepper


async def add(a: int, b: int) -> int:
    await trio.sleep(1)
    return a + b


def test_returns_and_raises_what_the_call_does() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with Stepper() as stepper:
        assert stepper.run(add, 1, 2) == 3
        with pytest.raises(KeyError):
            stepper.run(fail)
        assert stepper.run(add, 3, 4) == 7


def test_daemons_live_from_call_to_call_and_time_passes_only_inside_calls() -> None:
    beats: list[float] = []

    async def daemon() -> None:
        while True:
            await trio.sleep(10)
            beats.append(trio.current_time())

    async def start() -> None:
        stepper.nursery.start_soon(daemon)

    with Stepper() as stepper:
        stepper.run(start)
        stepper.run(trio.sleep, 35)
        assert len(beats) == 3
        stepper.run(trio.sleep, 6)
        assert len(beats) == 4


def test_an_error_of_a_daemon_comes_out_of_the_call_it_falls_into() -> None:
    async def dies() -> None:
        await trio.sleep(5)
        raise ValueError("daemon")

    async def start() -> None:
        stepper.nursery.start_soon(dies)

    with Stepper() as stepper:
        stepper.run(start)
        with pytest.raises(ExceptionGroup) as caught:
            stepper.run(trio.sleep, 10)
        assert caught.group_contains(ValueError, match="daemon")


def test_a_call_that_can_never_end_is_told() -> None:
    with Stepper() as stepper:
        with pytest.raises(Hung):
            stepper.run(trio.Event().wait)
        assert stepper.run(add, 1, 1) == 2


def test_a_call_that_does_not_end_while_timers_go_off_is_told() -> None:
    async def tick() -> None:
        for _ in range(10000):
            await trio.sleep(100)

    async def start() -> None:
        stepper.nursery.start_soon(tick)

    with Stepper() as stepper:
        stepper.run(start)
        with pytest.raises(Hung):
            stepper.run(trio.Event().wait)


def test_the_seed_decides_the_order_of_tasks() -> None:
    async def order() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                seen.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(note, number)
        return seen

    def run(seed: int) -> list[int]:
        with Stepper(seed) as stepper:
            return stepper.run(order)

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(5)}) > 1
