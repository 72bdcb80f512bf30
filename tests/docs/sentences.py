# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentences that lcfs can say to a person, read from its source: each with … where something is put in.

Found are: what an exception of `engine/errors.py` or `CommandFailed` is made with, wherever it is raised; the reasons
behind the states of caches and disks; warnings and errors of the log; what a command writes to stderr.
Not found, because they only ask for the same words again, written right: what ends with a usage text (exit code 2), and
the ValueErrors of the parsers in `commands`, which name the word and the form that it takes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from lcfs.commands.failure import CommandFailed
from lcfs.engine import errors

SOURCE = Path(__file__).parent.parent.parent / "src" / "lcfs"

PUT_IN = "…"

RAISED = {name for name, value in vars(errors).items() if isinstance(value, type)} | {CommandFailed.__name__, "MessageRefused"}

REASONS = {"fail", "set_missing", "_on_stuck", "_open_room"}
"""Methods that are handed a reason, which a state or an error will tell."""

REASON_NAMES = {"missing", "fault", "_flush_failure", "reason", "CALLED_OFF"}
"""Variables and attributes that hold one."""

REASON_OF = {"state", "wait", "_ask"}
"""Functions that return one."""

SAID = {"note", "failed", "say"}
"""Methods of a reporter, and how the engine gets there."""

LOGGED = {"warning", "error", "exception", "critical"}

FRAME = re.compile(f"(lcfs [a-z{PUT_IN}]+: )?({PUT_IN}: )?{PUT_IN}$|running$")
"""What another sentence is put in, and the state that needs no remedy."""

USAGE = re.compile(r"^(2|USAGE)$")
"""An exit code of CommandFailed that says: read the usage."""


@attrs.frozen(order=True)
class Sentence:
    """A sentence and where it is in the source."""

    text: str
    place: str
    usage: bool = False


def template(node: ast.expr) -> str | None:
    """The text of a literal, an f-string, or literals put together; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else PUT_IN for part in node.values)
    return None


def normal(text: str) -> str:
    """Without regard to how what is put in is formatted, or of how many parts it is."""
    return re.sub(f"{PUT_IN}(?: ?{PUT_IN})+", PUT_IN, re.sub(r"%[sd]", PUT_IN, text)).strip()


def literals(node: ast.expr) -> Iterator[str]:
    """The texts that an argument can be, with both arms of a choice; none where it is handed on from elsewhere."""
    if isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from literals(value)
    elif (text := template(node)) is not None and re.search("[a-z]{3}", kept := normal(text)) and not FRAME.match(kept):
        yield kept


def sources() -> list[tuple[str, ast.Module]]:
    """The modules that run in a mount or a command, by name."""
    return [
        (str(path.relative_to(SOURCE)), ast.parse(path.read_text()))
        for path in sorted(SOURCE.glob("**/*.py"))
        if "testing" not in path.relative_to(SOURCE).parts
    ]


def sentences() -> list[Sentence]:
    """All of them, in the order of the source."""
    found = [
        Sentence(text, f"{name}:{node.lineno}", usage)
        for name, tree in sources()
        for node in ast.walk(tree)
        for argument, usage in _said(name, node)
        for text in literals(argument)
    ]
    return sorted(set(found))


def _said(name: str, node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """The expressions in `node` that a person reads, each with whether it is about usage."""
    if isinstance(node, ast.Call):
        owner, _, called = ast.unparse(node.func).rpartition(".")
        first = node.args[:1]
        if called in RAISED:
            usage = called == CommandFailed.__name__ and len(node.args) > 1 and USAGE.match(ast.unparse(node.args[1]))
            yield from ((argument, bool(usage)) for argument in first)
        elif called in REASONS or (called in LOGGED and owner == "log") or called in SAID:
            yield from ((argument, False) for argument in first)
        elif called == "print" and any("stderr" in ast.unparse(keyword.value) for keyword in node.keywords):
            yield from ((argument, False) for argument in first)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and ast.unparse(node.elts[1]).startswith("MOUNT_"):
        yield node.elts[0], False
    elif isinstance(node, ast.Assign):
        targets = {ast.unparse(target).rpartition(".")[2] for target in node.targets}
        if targets & REASON_NAMES:
            yield node.value, False
    elif isinstance(node, ast.FunctionDef) and node.name in REASON_OF:
        yield from ((inner.value, False) for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)
