# SPDX-License-Identifier: GPL-2.0-or-later
"""Long work in a thread, called off by a signal to this process."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from lcfs.commands.progress import ProgressLine, run_interruptible


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


def test_a_log_gets_a_line_now_and_then_and_a_pipe_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lcfs.commands.progress.LOG_INTERVAL", 0.3)
    reader, writer = os.pipe()
    for stderr in (open(tmp_path / "log", "w"), os.fdopen(writer, "w")):
        with stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            run_interruptible(lambda: time.sleep(1.2), progress=lambda: "on the way", cancel=pytest.fail)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines and set(lines) == {"on the way"}
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_the_journal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr("lcfs.commands.progress.LOG_INTERVAL", 0)
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not ProgressLine().is_due
        status = os.fstat(ours.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert ProgressLine().is_due
