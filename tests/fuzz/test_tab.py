# SPDX-License-Identifier: GPL-2.0-or-later
"""The tab file, with every value replaced by every kind of value, and with anything at all in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lcfs.commands.failure import CommandFailed
from lcfs.commands.tab import read_tab
from tests.commands.test_tab import GOOD
from tests.fuzz.mutations import ROUNDS

many = settings(max_examples=ROUNDS * 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = (
    *("0", "1", "-1", "254", "255", "18446744073709551616", "1.5", "inf", "nan", "true", "1979-05-27", "07:32:00"),
    *('""', '"x"', '"/"', '"/a/../b"', '"\\u0000"', '"\\n"', '"20G"', '"99999999T"'),
    *("[]", '[""]', '["ro", 1]', "[[]]", "{}", "{a = 1}"),
)
LINES = [number for number, line in enumerate(GOOD.splitlines()) if " = " in line]


def taken(path: Path, text: str | bytes) -> bool:
    """Whether it is taken; refused it must be with one sentence that names the file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    try:
        entries = read_tab(str(path))
    except CommandFailed as exc:
        assert str(path) in str(exc) and "\n" not in str(exc)
        return False
    for entry in entries:
        assert entry.mountpoint.startswith("/") and entry.caches and entry.cache_size > 0
    return True


@pytest.mark.parametrize("number", LINES)
def test_every_value_is_taken_or_refused_with_a_sentence(tmp_path: Path, number: int) -> None:
    lines = GOOD.splitlines()
    key = lines[number].partition(" = ")[0]
    ends = []
    for value in VALUES:
        changed = [*lines[:number], f"{key} = {value}", *lines[number + 1 :]]
        ends.append(taken(tmp_path / "tab", "\n".join(changed)))
    assert not all(ends), f"{key} takes anything"


@many
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.lists(st.sampled_from(GOOD.splitlines())).map("\n".join)))
@example("x = " + "[" * 5000)
@example("[mount.a]\ncache_size = " + "9" * 5000)
@example("[mount.a]\nat = \ud800")
@example("\n")
def test_anything_at_all(tmp_path: Path, text: str | bytes) -> None:
    taken(tmp_path / "tab", text)
