# SPDX-License-Identifier: GPL-2.0-or-later
"""The crash explorer finds nothing in lcfs, and finds what is broken on purpose."""

import attrs
import pytest
import trio

from lcfs.engine.device import Device
from lcfs.testing import ALL
from lcfs.testing.explore import in_trio, main, parse_script
from lcfs.testing.explorer import Crash, Explorer, Found, Script, script_of
from lcfs.testing.shrink import narrate, shrink
from lcfs.testing.world import Setup


@pytest.mark.timeout(900)
def test_no_promise_is_broken() -> None:
    assert main(["STATES=100000", "SEED=1"]) == 0


def test_the_same_seed_is_the_same_exploration() -> None:
    seen: list[tuple[int, int]] = []

    async def explore() -> None:
        explorer = Explorer(10000)
        await explorer.explore(script_of(12))
        seen.append((explorer.states, explorer.recovered))

    in_trio(explore)
    in_trio(explore)
    assert seen[0] == seen[1]
    assert seen[0][0] > 20


def test_what_is_broken_is_found_shrunk_told_and_replayed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def acknowledge_only(self: Device) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Device, "flush", acknowledge_only)

    async def explore() -> None:
        with pytest.raises(Found) as caught:
            await Explorer(10000).explore(Script(Setup(), 1, "nothing", ("write three lines", "rename", "barrier")))
        found = await shrink(caught.value)
        assert found.kind == "Violation R1"
        assert found.script.steps == ("write three lines", "barrier")
        assert "step: barrier\npower fails at moment 0; not synced were:\nrecovery" in await narrate(found.script)
        scripts.append(found.script)

    scripts: list[Script] = []
    in_trio(explore)
    assert parse_script(repr(scripts[0])) == scripts[0]
    assert main([f"REPLAY={scripts[0]!r}"]) == 1
    assert "VIOLATION R1: disk 1 sector" in capsys.readouterr().out
    monkeypatch.undo()
    assert main([f"REPLAY={scripts[0]!r}"]) == 0


@pytest.mark.parametrize("text", ["1", "Script()", "import os", "open('x')", "Crash(point=1, survival=())"])
def test_what_is_no_script_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, SyntaxError, KeyError)):
        parse_script(text)


def test_words_it_does_not_know_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["STATE=5"]) == 2
    assert "STATE=5" in capsys.readouterr().err


def test_a_script_of_two_crashes_is_told_and_replayed() -> None:
    async def tell() -> None:
        explorer = Explorer(0)
        script = Script(Setup(), 1, "nothing", ("write a line", "barrier"))
        run = await explorer.run(script)
        first = Crash(1, (ALL,) * len(run.points()[1].pending), "barrier of disk 2")
        after = await explorer.after(script, run, first)
        last = len(after.points()) - 1
        second = Crash(last, (0,) * len(after.points()[last].pending))
        script = attrs.evolve(script, crashes=(first, second))
        told = await narrate(script)
        assert told.count("power fails") == 2
        assert "write of 8192 bytes" in told and "survives" in told
        assert [point.at for point in await explorer.replay(script)] == [run.points()[1].at, after.points()[last].at]

    in_trio(tell)
