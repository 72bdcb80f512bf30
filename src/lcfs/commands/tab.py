# SPDX-License-Identifier: GPL-2.0-or-later
"""The tab file, lcfs.toml(5): what is to be mounted on this machine, each mount under a name.

Whatever is wrong with it is told before anything is mounted, as one sentence that names file, key and value.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import attrs

from lcfs.commands.arguments import DEFAULT_CACHE_SIZE, parse_id, parse_size
from lcfs.commands.failure import CommandFailed
from lcfs.commands.metrics_address import parse_address
from lcfs.commands.mount_options import parse_options
from lcfs.commands.mount_words import CacheWord, DeviceWord, require_distinct

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@attrs.frozen
class Entry:
    """One mount of the tab file. Every path is absolute; `options` are words as for `-o`, the key `metrics` among them;
    `auto`: `--all` means it too."""

    name: str
    mountpoint: str
    caches: tuple[CacheWord, ...]
    devices: tuple[DeviceWord, ...]
    cache_size: int
    options: tuple[str, ...]
    log: str | None
    auto: bool


def read_tab(path: str) -> list[Entry]:
    """The mounts in the order of the file. Raises CommandFailed."""
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise CommandFailed(f"tab file {path} cannot be read: {error.strerror}; lcfs.toml(5) shows one") from None
    except (ValueError, RecursionError) as error:
        # what is no TOML, no UTF-8, a number of thousands of digits, or nested without end
        raise CommandFailed(f"tab file {path} is not TOML: {error}; correct it there") from None
    try:
        _only(document, "", {"mount"})
        entries = [_entry(name, table) for name, table in _table(document.get("mount", {}), "mount").items()]
        _require_distinct_places(entries)
    except ValueError as error:
        raise CommandFailed(f"tab file {path}: {error}") from None
    return entries


def find(path: str, name: str) -> Entry:
    """The mount called `name`, or at the mount point `name`. Raises CommandFailed."""
    entries = read_tab(path)
    for entry in entries:
        if name == entry.name:
            return entry
    for entry in entries:
        if os.path.realpath(name) == os.path.realpath(entry.mountpoint):
            return entry
    known = ", ".join(entry.name for entry in entries) or "nothing"
    raise CommandFailed(f"{name} is not in the tab file {path}, which has {known}; or say --cache IMAGE")


def _entry(name: str, value: Any) -> Entry:
    key = f"mount.{name}"
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{key}: {name!r} is no name; use up to 64 letters, digits, '_', '.' and '-'")
    table = _table(value, key)
    _only(table, key, {"at", "cache", "disk", "cache_size", "options", "metrics", "log", "auto"})
    caches = tuple(_cache(row, where) for row, where in _rows(table, key, "cache"))
    devices = tuple(_disk(row, where) for row, where in _rows(table, key, "disk"))
    if not caches:
        raise ValueError(f"{key} names no cache; add a table [[{key}.cache]] with an image")
    try:
        require_distinct([cache.id for cache in caches], what="cache")
        require_distinct([device.id for device in devices], what="disk")
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return Entry(
        name=name,
        mountpoint=_path(table, key, "at"),
        caches=caches,
        devices=devices,
        cache_size=_size(table, key, "cache_size") or DEFAULT_CACHE_SIZE,
        options=_options(table, key),
        log=_path(table, key, "log") if "log" in table else None,
        auto=_auto(table, key),
    )


def _cache(table: Mapping[str, Any], key: str) -> CacheWord:
    _only(table, key, {"image", "id"})
    return CacheWord(_path(table, key, "image"), _id(table, key, "id", "cache"))


def _disk(table: Mapping[str, Any], key: str) -> DeviceWord:
    _only(table, key, {"path", "id", "size", "cache", "name"})
    return DeviceWord(
        _path(table, key, "path"),
        _id(table, key, "id", "disk"),
        size=_size(table, key, "size"),
        cache=_id(table, key, "cache", "cache", lowest=0),
        name=_text(table, key, "name") if "name" in table else None,
    )


def _rows(table: Mapping[str, Any], key: str, name: str) -> list[tuple[Mapping[str, Any], str]]:
    rows = table.get(name, [])
    if not isinstance(rows, list):
        raise ValueError(f"{key}.{name} is {rows!r}; write tables of their own, each under [[{key}.{name}]]")
    return [(_table(row, where), where) for row, where in ((row, f"{key}.{name}[{n}]") for n, row in enumerate(rows, 1))]


def _table(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {value!r}; write a table, [{key}]")
    return value


def _only(table: Mapping[str, Any], key: str, known: set[str]) -> None:
    for name in table:
        if name not in known:
            where = f"{key}.{name}" if key else name
            raise ValueError(f"{where} is not known; known are {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], key: str, name: str) -> str:
    value = table.get(name)
    if value is None:
        raise ValueError(f"{key}.{name} is missing; add it")
    if not isinstance(value, str) or not value or any(sign in value for sign in "\n\0"):
        raise ValueError(f"{key}.{name} is {value!r}; write a text on one line, in quotes")
    return value


def _path(table: Mapping[str, Any], key: str, name: str) -> str:
    path = _text(table, key, name)
    if not path.startswith("/"):
        raise ValueError(f"{key}.{name} is {path!r}; write a path that begins with a slash")
    return os.path.normpath(path)


def _size(table: Mapping[str, Any], key: str, name: str) -> int | None:
    value = table.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"size {value!r} is not a number of bytes; write digits, or digits with a unit in quotes")
        return parse_size(str(value))
    except ValueError as error:
        raise ValueError(f"{key}.{name}: {error}") from None


def _id(table: Mapping[str, Any], key: str, name: str, what: str, *, lowest: int = 1) -> int | None:
    value = table.get(name)
    if value is None:
        return None
    try:
        return parse_id(str(value) if isinstance(value, int | str) else repr(value), what=what, lowest=lowest)
    except ValueError as error:
        raise ValueError(f"{key}.{name}: {error}") from None


def _options(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get("options", [])
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f'{key}.options is {value!r}; write texts as for -o: ["allow_other", "mode=0660"]')
    try:
        parse_options(words)
    except ValueError as error:
        raise ValueError(f"{key}.options: {error}") from None
    return (*words, *_metrics(table, key))


def _metrics(table: Mapping[str, Any], key: str) -> list[str]:
    if "metrics" not in table:
        return []
    try:
        return [f"metrics={parse_address(_text(table, key, 'metrics'))}"]
    except ValueError as error:
        raise ValueError(f"{key}.metrics: {error}") from None


def _auto(table: Mapping[str, Any], key: str) -> bool:
    value = table.get("auto", True)
    if not isinstance(value, bool):
        raise ValueError(f"{key}.auto is {value!r}; write true or false")
    return value


def _require_distinct_places(entries: list[Entry]) -> None:
    """A mount point or an image that two mounts name is a slip of the pen."""
    seen: dict[str, str] = {}
    for entry in entries:
        for what, path in [("at", entry.mountpoint), *(("cache", cache.path) for cache in entry.caches)]:
            if path in seen:
                raise ValueError(f"mount.{entry.name}.{what} is {path!r}, and so is one of {seen[path]}; give each its own")
            seen[path] = f"mount.{entry.name}"
