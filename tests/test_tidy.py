# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the checkout tidy: imports go one way, every file says its licence, links lead somewhere.

A new module of the engine takes its place in ENGINE_LAYERS, a new room in ROOMS.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

TOP = Path(__file__).parent.parent
SRC = TOP / "src"

ROOMS: dict[str, set[str]] = {
    # room: the rooms it may import. A room is a module or package right below lcfs.
    "engine": set(),
    "testing": {"engine"},
    "tree_loops": {"engine"},
    "tree_segments": {"engine"},
    "tree_attributes": {"tree_loops", "tree_segments", "engine"},
    "tree_process": set(),
    "tree_metrics": {"tree_process", "engine"},
    "tree_text": {"tree_attributes", "engine"},
    "sysfs_tree": {"tree_attributes", "tree_loops", "tree_metrics", "tree_text", "engine"},
    "fuse_ops": {"sysfs_tree", "engine"},
    "fuse_limits": set(),
    "fuse_loop": {"fuse_limits", "fuse_ops", "sysfs_tree", "engine"},
    "commands": {"fuse_limits", "fuse_loop", "fuse_ops", "sysfs_tree", "tree_metrics", "engine"},
    "__main__": {"commands"},
    "__init__": set(),
}

ENGINE_LAYERS: tuple[tuple[str, set[str]], ...] = (
    # From the ground up. A module imports from its own layer and those below it, and never in a circle.
    ("ground", {"errors", "geometry"}),
    ("pure parts", {"disk_format", "disk_table", "latency", "lookup", "request_cost", "spec", "stats", "tunables"}),
    ("storage", {"block_store", "file_store"}),
    (
        "working parts",
        {
            "backing_load",
            "barrier",
            "cached_device",
            "extents",
            "flush",
            "formatting",
            "line_reader",
            "log",
            "log_reader",
            "migrate",
            "modulator",
            "pace",
            "read_path",
            "ring",
            "scrub",
            "segment_map",
            "spans",
            "superblock",
            "unreadable",
            "write_buffer",
            "write_path",
        },
    ),
    ("cache", {"cache"}),
    ("recovery", {"inspection", "recover", "repair"}),
    ("device", {"device"}),
    ("manager", {"disk_changes", "manager", "messages", "mounted", "orphan", "startup"}),
    ("door", {"__init__"}),
)

ONLY_IN: dict[str, set[str]] = {
    # package from elsewhere: the rooms that may import it.
    "pyfuse3": {"fuse_ops", "fuse_loop", "commands"},
    "rich": {"commands"},
    "hypothesis": set(),
    "pytest": set(),
}

WITHOUT_LOOP = {"ground", "pure parts"}
"""Layers that do no I/O and know of no event loop, so that they can be tested, typed and compiled on their own."""

LONGEST_SOURCE = 600
"""Lines."""

NOT_OURS = {"run", "build", "dist", "__pycache__"}
OURS_THOUGH_HIDDEN = {".ci", ".github", ".gitignore"}
BINARY = {".img", ".gz", ".xz", ".zst", ".bin", ".png", ".npy"}
WITHOUT_LICENCE_LINE = {".md", ".json", ".txt", ".svg"} | BINARY
LICENCE_LINE = "SPDX-License-Identifier: GPL-2.0-or-later"
OPEN_ENDS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")) + r")\b")


def is_ours(name: str) -> bool:
    return name in OURS_THOUGH_HIDDEN or not (name.startswith(".") or name in NOT_OURS or name.endswith(".egg-info"))


def files() -> list[Path]:
    """Every file of the checkout that a person wrote."""
    found = []
    for directory, subdirectories, names in os.walk(TOP):
        subdirectories[:] = [name for name in subdirectories if is_ours(name)]
        found += [Path(directory, name) for name in names if is_ours(name)]
    found = [file for file in found if not (file.parent == TOP and file.suffix == ".img")]
    assert Path(__file__) in found
    return sorted(found)


def texts() -> list[tuple[Path, str]]:
    """The files that are text, each with its path from the top of the checkout."""
    return [(file.relative_to(TOP), file.read_text()) for file in files() if file.suffix not in BINARY]


def sources(directory: str) -> list[tuple[Path, ast.Module]]:
    """The Python files below a directory of the checkout."""
    return [
        (path, ast.parse(text, str(path))) for path, text in texts() if path.suffix == ".py" and path.is_relative_to(directory)
    ]


# Imports


@attrs.frozen
class Import:
    """`module` (dotted, complete) imported at `path`:`line`; `for_types`: under `if TYPE_CHECKING`."""

    path: Path
    line: int
    module: str
    for_types: bool

    @property
    def importer(self) -> list[str]:
        """The dotted name of the importing module, in parts; a package's is that of its __init__."""
        return list(self.path.relative_to("src").with_suffix("").parts)

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def imports() -> list[Import]:
    """Every import of src, those inside functions too."""
    return [found for path, tree in sources("src") for found in _imports(path, tree, tree, False)]


def _imports(path: Path, tree: ast.Module, node: ast.AST, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(path, child.lineno, alias.name, for_types)
        elif isinstance(child, ast.ImportFrom):
            package = list(path.relative_to("src").parts[: -child.level]) if child.level else []
            origin = ".".join([*package, *([child.module] if child.module else [])])
            for alias in child.names:
                module = f"{origin}.{alias.name}"
                yield Import(path, child.lineno, module if _is_module(module) else origin, for_types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(path, tree, ast.Module(child.body, []), True)
            yield from _imports(path, tree, ast.Module(child.orelse, []), for_types)
        else:
            yield from _imports(path, tree, child, for_types)


def _is_module(name: str) -> bool:
    path = SRC.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_module_has_a_place() -> None:
    layered = {name for _, names in ENGINE_LAYERS for name in names}
    homeless = []
    for path, _ in sources("src"):
        _, room, *rest = path.relative_to("src").with_suffix("").parts
        if room not in ROOMS:
            homeless.append(f"{path}: give the room {room} a line in ROOMS")
        elif room == "engine" and rest[0] not in layered:
            homeless.append(f"{path}: give {rest[0]} a place in ENGINE_LAYERS")
    assert not homeless


def test_rooms_import_one_way() -> None:
    wrong = []
    for found in imports():
        room = found.importer[1]
        top, *rest = found.module.split(".")
        if top == "lcfs" and rest and rest[0] != room and rest[0] not in ROOMS.get(room, ROOMS):
            wrong.append(f"{found}, but {room} may import of lcfs only {sorted(ROOMS[room])}")
    assert not wrong


def test_packages_stay_in_their_rooms() -> None:
    wrong = []
    for found in imports():
        rooms = ONLY_IN.get(found.module.split(".")[0])
        if rooms is not None and found.importer[1] not in rooms:
            wrong.append(f"{found}, which only {sorted(rooms)} may")
    assert not wrong


def _engine_imports() -> Iterator[tuple[str, str, Import]]:
    """(importing, imported, where) between modules of the engine; what is imported for its type alone is left out."""
    for found in imports():
        _, room, *importer = found.importer
        parts = found.module.split(".")
        if room == "engine" and parts[:2] == ["lcfs", "engine"] and not found.for_types:
            yield importer[0], parts[2] if len(parts) > 2 else "__init__", found


def test_engine_imports_downwards() -> None:
    rank = {name: number for number, (_, names) in enumerate(ENGINE_LAYERS) for name in names}
    wrong = []
    for importer, imported, found in _engine_imports():
        if rank.get(imported, 0) > rank.get(importer, len(rank)):
            upper, lower = ENGINE_LAYERS[rank[imported]][0], ENGINE_LAYERS[rank[importer]][0]
            wrong.append(f"{found}, but {lower} may not import {upper}")
    assert not wrong


def test_engine_imports_in_no_circle() -> None:
    edges: dict[str, set[str]] = {}
    for importer, imported, _ in _engine_imports():
        edges.setdefault(importer, set()).add(imported)
    reach = {name: set(direct) for name, direct in edges.items()}
    for middle in edges:
        for name in edges:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    assert not sorted(name for name, reached in reach.items() if name in reached)


def test_pure_parts_know_no_event_loop() -> None:
    modules = {name for layer, names in ENGINE_LAYERS if layer in WITHOUT_LOOP for name in names}
    wrong = [
        str(found)
        for found in imports()
        if found.importer[1] == "engine" and found.importer[2] in modules and found.module.split(".")[0] == "trio"
    ]
    assert not wrong


# Text


def test_licence_line() -> None:
    without = [
        str(path)
        for path, text in texts()
        if path.suffix not in WITHOUT_LICENCE_LINE
        and path.name not in ("LICENSE", "py.typed")
        and LICENCE_LINE not in "".join(text.splitlines(keepends=True)[:3])
    ]
    assert not without, "the first lines need: " + LICENCE_LINE


def test_no_long_source() -> None:
    lines = {str(path): text.count("\n") for path, text in texts() if path.parts[0] == "src"}
    long = {path: count for path, count in lines.items() if count > LONGEST_SOURCE}
    assert not long, "see whether two ideas share a file"


def test_no_open_ends() -> None:
    found = [
        f"{path}:{number}: {match[1]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := OPEN_ENDS.search(line))
    ]
    assert not found


def test_whitespace() -> None:
    wrong = []
    for path, text in texts():
        if path.name == "LICENSE":
            continue
        wrong += [f"{path}:{n}: trailing space" for n, line in enumerate(text.split("\n"), 1) if line != line.rstrip()]
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            wrong.append(f"{path}: ends in no newline, or in more than one")
    assert not wrong


def test_scripts_can_be_run() -> None:
    wrong = [str(path) for path, text in texts() if text.startswith("#!") and not os.access(TOP / path, os.X_OK)]
    assert not wrong, "chmod +x"


# Documents


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.M | re.S))


def _anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ +(.*?) *#*$", re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    broken = []
    for path, text in texts():
        if path.suffix != ".md":
            continue
        for link in re.findall(r"\]\(<?([^)\s>]+)", _without_code(text)):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = TOP / path.parent / name if name else TOP / path
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
                broken.append(f"{path}: {link}")
    assert not broken


def test_readme_shows_the_two_commands() -> None:
    first_screen = (TOP / "README.md").read_text().splitlines()[:40]
    for command in ("make run", "make test"):
        assert any(command in line for line in first_screen), command


# Tests


def _is_given(call: ast.Call, *, position: int | None) -> bool:
    """Whether a call says its reason, as the keyword `reason` or at a position."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    if position is not None:
        given += call.args[position : position + 1]
    return any(not (isinstance(value, ast.Constant) and not value.value) for value in given)


def test_skips_say_why() -> None:
    position = {"skip": 0, "xfail": 0, "importorskip": None, "mark.skip": 0, "mark.skipif": None, "mark.xfail": None}
    wrong = []
    for path, tree in sources("tests"):
        with_reason = {
            call.func
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and (name := ast.unparse(call.func).removeprefix("pytest.")) in position
            and _is_given(call, position=position[name])
        }
        wrong += [
            f"{path}:{node.lineno}: {ast.unparse(node)} without a reason"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and ast.unparse(node).startswith("pytest.")
            and ast.unparse(node).removeprefix("pytest.") in position
            and node not in with_reason
        ]
    assert not wrong
