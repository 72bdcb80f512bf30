# SPDX-License-Identifier: GPL-2.0-or-later
"""The words `--cache [ID=]IMAGE` and `--device [ID=]PATH[,size=SIZE][,cache=ID][,name=NAME]` of `lcfs mount`.

All raise ValueError with one sentence.
"""

from __future__ import annotations

import os
import re

import attrs

from lcfs.commands.arguments import parse_id, parse_size

_OPTION = re.compile(r",(?:size|cache|name)=[^,]*$")
_STRAY_OPTION = re.compile(r",([A-Za-z_]+)=")


@attrs.frozen
class CacheWord:
    """A cache to mount: an absolute path, and its id where one was given."""

    path: str
    id: int | None = None


@attrs.frozen
class DeviceWord:
    """A disk to mount: its backing's absolute path; None where the word left something open.

    `cache` 0 is a disk without a cache. `size` is in bytes.
    """

    path: str
    id: int | None = None
    size: int | None = None
    cache: int | None = None
    name: str | None = None


def parse_cache(word: str) -> CacheWord:
    """`[ID=]IMAGE`."""
    id_, path = _split_id(word, "cache")
    return CacheWord(path, id_)


def parse_device(word: str) -> DeviceWord:
    """`[ID=]PATH[,size=SIZE][,cache=ID][,name=NAME]`; other commas belong to the path."""
    options: dict[str, str] = {}
    rest = word
    while match := _OPTION.search(rest):
        key, _, value = match[0][1:].partition("=")
        if key in options:
            raise ValueError(f"--device {word!r} says {key}= twice; say it once")
        options[key] = value
        rest = rest[: match.start()]
    if stray := _STRAY_OPTION.search(rest):
        raise ValueError(f"--device {word!r} has an unknown option {stray[1]!r}; known are size=, cache= and name=")
    id_, path = _split_id(rest, "disk")
    return DeviceWord(
        path,
        id_,
        size=parse_size(options["size"]) if "size" in options else None,
        cache=parse_id(options["cache"], what="cache", lowest=0) if "cache" in options else None,
        name=options.get("name"),
    )


def require_distinct(ids: list[int | None], *, what: str) -> None:
    """Refuse an id that was given twice."""
    given = [id_ for id_ in ids if id_ is not None]
    for id_ in given:
        if given.count(id_) > 1:
            raise ValueError(f"{what} id {id_} is given twice; give each {what} its own")


def _split_id(word: str, what: str) -> tuple[int | None, str]:
    """What stands before the first `=` is an id, unless there is a slash in it: then it is all path."""
    if "\n" in word or "\0" in word:
        raise ValueError(f"{what} {word!r} names no usable path; write [ID=]PATH")
    id_: int | None = None
    path = word
    head, equals, tail = word.partition("=")
    if equals and "/" not in head:
        try:
            id_ = parse_id(head, what=what)
        except ValueError as error:
            raise ValueError(f"{error}; write ./{word} if that is the name of a file") from None
        path = tail
    if not path:
        raise ValueError(f"{what} {word!r} names no usable path; write [ID=]PATH")
    return id_, os.path.abspath(path)
