# SPDX-License-Identifier: GPL-2.0-or-later
"""Long work in a thread, called off by a signal to this process."""

import os
import signal
import threading
import time

import pytest

from lcfs.commands.progress import run_interruptible


def test_the_result_is_that_of_the_work() -> None:
    assert run_interruptible(lambda: 42, progress=str, cancel=pytest.fail) == 42


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise OSError(5, "broken")

    with pytest.raises(OSError, match="broken"):
        run_interruptible(work, progress=str, cancel=pytest.fail)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_calls_cancel_until_the_work_ends(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    called_off = threading.Event()
    calls: list[float] = []

    def work() -> str:
        os.kill(os.getpid(), number)
        assert called_off.wait(10)
        return "ended by itself"

    def cancel() -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append(time.monotonic())
        if len(calls) == 2:
            called_off.set()

    before = signal.getsignal(number)
    assert run_interruptible(work, progress=str, cancel=cancel) == "ended by itself"
    assert len(calls) == 2
    assert signal.getsignal(number) is before
    assert capfd.readouterr() == ("", ""), "silent when stderr is no terminal"
