# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of docs/doubles.md do what the page says."""

from __future__ import annotations

import re
from inspect import iscoroutinefunction
from pathlib import Path

import pytest

import lcfs.testing
from lcfs.testing.explore import in_trio

PAGE = (Path(__file__).parents[2] / "docs" / "doubles.md").read_text()
BLOCKS = re.findall(r"^(?:    .*\n(?:\n(?=    ))?)+", PAGE, re.MULTILINE)
EXAMPLES = {name: block for block in BLOCKS for name in re.findall(r"def (test_\w+)", block)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(re.sub(r"^    ", "", EXAMPLES[name], flags=re.MULTILINE), namespace)
    example = namespace[name]
    assert callable(example)
    if iscoroutinefunction(example):
        in_trio(example, None)  # the clock it asks for is running
    else:
        example()


def test_every_double_is_on_the_page() -> None:
    assert len(EXAMPLES) == 4
    stores = [
        name for name, thing in vars(lcfs.testing).items() if isinstance(thing, type) and name.endswith(("Store", "Layer"))
    ]
    assert len(stores) == 7
    assert [name for name in stores if f"| `{name}(" not in PAGE] == []
    assert [effect for effect in lcfs.testing.Effect.__members__ if f"| `{effect}` |" not in PAGE] == []
