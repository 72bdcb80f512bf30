# SPDX-License-Identifier: GPL-2.0-or-later
"""A bug as an edit of the engine's own source, made for as long as a block is open.

An edit names a function and a piece of its text that occurs there once. Where the engine changes so that it no longer
does, applying it fails: a planted bug never turns into one that is not there.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import attrs


class Unplantable(Exception):
    """The text of an edit is not in its function, once."""


@attrs.frozen
class Edit:
    """`old` becomes `new` in the source of a function or method."""

    function: Callable[..., Any]
    old: str
    new: str


def edited(function: Callable[..., Any], edits: Sequence[Edit]) -> FunctionType:
    """The function with its edits made; the original is not touched. Raises Unplantable."""
    original = _bare(function)
    source = textwrap.dedent(inspect.getsource(original))
    for edit in edits:
        if source.count(edit.old) != 1:
            raise Unplantable(f"{original.__qualname__} has {source.count(edit.old)} times: {edit.old!r}")
        source = source.replace(edit.old, edit.new)
    while source.startswith("@"):
        source = source.partition("\n")[2]
    # annotations stay words, as in the module the function is from
    code = compile("from __future__ import annotations\n" + source, f"<{original.__qualname__}, edited>", "exec")
    scope: dict[str, Any] = {}
    exec(code, original.__globals__, scope)
    return _bare(scope[original.__name__])


def _bare(function: Callable[..., Any]) -> FunctionType:
    bare = inspect.unwrap(function)
    assert isinstance(bare, FunctionType)
    return bare


@contextmanager
def planted(edits: Sequence[Edit]) -> Iterator[None]:
    """Within, the engine has the bug, for everybody who holds the functions already, too."""
    functions = list(dict.fromkeys(edit.function for edit in edits))
    changed = {f: edited(f, [edit for edit in edits if edit.function is f]) for f in functions}
    before = {f: _bare(f).__code__ for f in functions}
    try:
        for function, made in changed.items():
            _bare(function).__code__ = made.__code__
        yield
    finally:
        for function, code in before.items():
            _bare(function).__code__ = code
