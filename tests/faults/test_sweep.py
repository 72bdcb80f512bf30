# SPDX-License-Identifier: GPL-2.0-or-later
"""A share of the sweeps finds nothing in lcfs; and they find what is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from lcfs.engine import mounted
from lcfs.engine.barrier import Barriers
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.flush import Flusher
from lcfs.engine.log import Log
from lcfs.engine.manager import Manager
from lcfs.engine.migrate import Migrator
from lcfs.engine.startup import Startup
from tests.faults.sweep import SHAPES, Order, Report, main, run

SHARE = 30


@pytest.mark.timeout(900)
def test_nothing_is_found(say_at_the_end: Callable[[str], None]) -> None:
    report = run(Order(share=SHARE))
    say_at_the_end(report.text())
    assert not report.findings, "\n".join(report.findings)
    assert report.cases > 500
    assert {"flush: lost, EIO, once", "write: hang, for ever", "read: corrupt, once", "cancelled"} <= report.kinds.keys()


def in_first_shape(only: str, what: str = "faults") -> Report:
    """The cases of one operation whose line contains the text."""
    return run(Order(what=(what,), only=only, acts=(only.partition(":")[0],), shapes=SHAPES[:1]))


def found(only: str, what: str = "faults") -> str:
    """What they found; there must be some."""
    report = in_first_shape(only, what)
    assert report.cases
    return "\n".join(report.findings)


def test_an_acknowledged_barrier_that_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def acknowledge_only(self: Device) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Device, "flush", acknowledge_only)
    assert "Violation: R" in in_first_shape("barrier: EIO once").findings[0]


def test_a_flush_that_failed_and_is_trusted_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def retry(self: Log) -> None:
        for _ in range(3):
            try:
                return await self.image.flush()
            except OSError:
                continue

    monkeypatch.setattr(Log, "flush_image", retry)
    monkeypatch.setattr(Flusher, "_flushes_along", lambda self, writes: False)
    assert "Violation: R1" in found("barrier: lost, EIO once")


def test_a_write_that_failed_and_counts_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(self: Flusher, writes: list[object]) -> bool:
        for one in writes:
            try:
                await self._store.write(one.offset, [one.buffer.view[one.first : one.end]])  # type: ignore[attr-defined]
            except OSError:
                pass
        return True

    monkeypatch.setattr(Flusher, "_write", write)
    assert "Violation: R" in found("barrier: EIO once, from call 0 on of write")


def test_an_error_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Barriers, position: int) -> None:
        raise KeyError(position)

    monkeypatch.setattr(Barriers, "wait_durable", fail)
    assert "KeyError" in in_first_shape("barrier:").findings[0]


def test_an_exception_that_kills_the_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Log.fail

    def fail(self: Log, reason: str) -> None:
        original(self, reason)
        raise RuntimeError(reason)

    monkeypatch.setattr(Log, "fail", fail)
    assert "RuntimeError" in found("barrier: EIO for ever, from call 0 on of write")


def test_a_writer_whom_nobody_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "_open_room", lambda self, stuck="": None)
    assert "hung though nothing is wrong" in in_first_shape("write more than the ring: EIO once").findings[0]


def test_a_daemon_that_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Migrator, "_pause", lambda self: 0.0)
    assert "spins" in in_first_shape("migrate: EIO").findings[0]


def test_a_shutdown_that_waits_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounted, "STOP_SECONDS", 100_000)
    assert "shutdown did not end" in found("barrier without cache: hang for ever, from call 0 on of flush of /disk4.img")


def test_a_disk_that_waits_behind_anothers_backing(monkeypatch: pytest.MonkeyPatch) -> None:
    locks: dict[object, trio.Lock] = {}
    original = Device.read

    async def read_one_at_a_time(self: Device, offset: int, length: int) -> object:
        async with locks.setdefault(self.cache, trio.Lock()):
            return await original(self, offset, length)

    monkeypatch.setattr(Device, "read", read_one_at_a_time)
    assert "R6: disk 2" in found("read backing: hang for ever")


def test_a_file_that_nobody_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close(self: Startup, path: str) -> object:
        return await self.storage.open(path, readonly=self.readonly)

    monkeypatch.setattr(Startup, "_open", close)
    assert "still held" in found("mount: EIO once, from call 0 on of open of /ssd2.img")


def test_a_detach_that_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it was done, but no image knows."""

    async def decide(self: Manager, cache: Cache | None, undo: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Manager, "_decide", decide)
    assert "Violation: R9" in found("detach: cancelled", "cancel")


def test_a_gate_that_a_cancelled_operation_leaves_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def held(self: Device) -> Iterator[None]:
        self._holds += 1
        self._update_gate()
        yield
        self._holds -= 1
        self._update_gate()

    monkeypatch.setattr(Device, "held", held)
    assert "Violation: R6: disk 1" in found("detach: cancelled", "cancel")


def test_an_operation_that_cannot_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Cache.drop_caches

    async def stubborn(self: Cache) -> None:
        try:
            await original(self)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)
            raise

    monkeypatch.setattr(Cache, "drop_caches", stubborn)
    assert "does not end though it was cancelled" in found("drop_caches: cancelled", "cancel")


def test_words_it_does_not_know_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("SHAER=5", "WHAT=everything"):
        assert main([word]) == 2
        assert word in capsys.readouterr().err


def test_the_command_runs_in_several_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["JOBS=2", "WHAT=faults", "ONLY=barrier: EIO"]) == 0
    assert "0 violations" in capsys.readouterr().out
