# SPDX-License-Identifier: GPL-2.0-or-later
"""The manager's messages: one line each, shell quoting, verbs in any case (dm-lc lc_mgr_message and lc-admin).

A row of `VERBS` is a verb, what its words are, and what it does. A wrong word changes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs

from lcfs.engine.errors import Invalid
from lcfs.engine.spec import check_disk_size
from lcfs.engine.startup import absolute
from lcfs.engine.tunables import parse_unsigned

if TYPE_CHECKING:
    from lcfs.engine.manager import Manager

Action = Callable[["Manager"], Awaitable[str]]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@attrs.frozen
class _Verb:
    usage: str
    least: int
    most: int
    act: Callable[[Manager, list[str]], Awaitable[str]]


def parse_size(text: str) -> int:
    """Bytes, or K, M, G, T in powers of 1024. Raises Invalid."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    digits = text[: len(text) - len(unit)]
    if unit not in _UNITS or not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        raise Invalid(f"{text[:80]!r} is not a size; give bytes, or a number with K, M, G or T")
    return int(digits) * _UNITS[unit]


def parse_message(line: str) -> Action:
    """What a control line asks for. Raises Invalid for an unknown verb, wrong words, or an open quote."""
    try:
        words = shlex.split(line)
    except ValueError as exc:
        raise Invalid(f"{line.strip()[:200]!r} cannot be read: {exc}") from None
    if not words:
        raise Invalid(f"an empty message; the verbs are {', '.join(VERBS)}")
    verb = VERBS.get(words[0].lower())
    if verb is None:
        raise Invalid(f"{words[0][:80]!r} is no message; the verbs are {', '.join(VERBS)}")
    arguments = words[1:]
    if not verb.least <= len(arguments) <= verb.most:
        raise Invalid(f"{words[0].lower()} has {len(arguments)} words behind it; say `{verb.usage}`")

    async def act(manager: Manager) -> str:
        return await verb.act(manager, arguments)

    return act


def _number(text: str) -> int:
    if text.startswith("+"):
        raise Invalid(f"{text[:80]!r} is not an id")
    return parse_unsigned(text)


async def _format(manager: Manager, words: list[str]) -> str:
    await manager.format_cache_device(absolute(words[0]))
    return ""


async def _switch_to(manager: Manager, words: list[str]) -> str:
    number = _number(words[0])
    if number > 254:
        raise Invalid(f"cache id {number} is not possible; ids are 1 to 254, and 0 for none")
    manager.cursor = number
    return manager.status_text()


async def _clear_stat(manager: Manager, words: list[str]) -> str:
    manager.current_cache().stats.clear()
    return ""


async def _resume_cache(manager: Manager, words: list[str]) -> str:
    await manager.resume_cache(absolute(words[0]))
    return ""


async def _free_cache(manager: Manager, words: list[str]) -> str:
    await manager.free_cache(manager.current_cache().id)
    return ""


async def _create(manager: Manager, words: list[str]) -> str:
    number, path, rest = _number(words[0]), absolute(words[1]), words[2:]
    size: int | None = None
    cache, name = 0, None
    if rest and "=" not in rest[0]:
        size = check_disk_size(parse_size(rest.pop(0)))
    options: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or key not in ("cache", "name") or key in options:
            raise Invalid(f"{word[:80]!r} is not understood; say `{VERBS['create'].usage}`")
        options[key] = value
    if "cache" in options:
        cache = _number(options["cache"])
    if "name" in options:
        name = options["name"]
    await manager.create(number, path, size, cache, name)
    return ""


async def _attach(manager: Manager, words: list[str]) -> str:
    await manager.attach(_number(words[0]), _number(words[1]))
    return ""


async def _detach(manager: Manager, words: list[str]) -> str:
    await manager.detach(_number(words[0]))
    return ""


async def _remove(manager: Manager, words: list[str]) -> str:
    await manager.remove(_number(words[0]))
    return ""


async def _grow(manager: Manager, words: list[str]) -> str:
    size = check_disk_size(parse_size(words[1])) if len(words) == 2 else None
    await manager.grow(_number(words[0]), size)
    return ""


async def _suspend(manager: Manager, words: list[str]) -> str:
    if len(words) == 2 and words[1].lower() != "noflush":
        raise Invalid(f"{words[1][:80]!r} is not understood; say `{VERBS['suspend'].usage}`")
    await manager.suspend(manager.device(_number(words[0])), flush=len(words) == 1)
    return ""


async def _resume(manager: Manager, words: list[str]) -> str:
    manager.resume(manager.device(_number(words[0])))
    return ""


async def _cancel(manager: Manager, words: list[str]) -> str:
    manager.cancel(_number(words[0]))
    return ""


VERBS: dict[str, _Verb] = {
    "format_cache_device": _Verb("format_cache_device PATH", 1, 1, _format),
    "switch_to": _Verb("switch_to ID", 1, 1, _switch_to),
    "clear_stat": _Verb("clear_stat", 0, 0, _clear_stat),
    "resume_cache": _Verb("resume_cache PATH", 1, 1, _resume_cache),
    "free_cache": _Verb("free_cache", 0, 0, _free_cache),
    "create": _Verb("create ID PATH [SIZE] [name=NAME] [cache=ID]", 2, 5, _create),
    "attach": _Verb("attach ID CACHE", 2, 2, _attach),
    "detach": _Verb("detach ID", 1, 1, _detach),
    "remove": _Verb("remove ID", 1, 1, _remove),
    "grow": _Verb("grow ID [SIZE]", 1, 2, _grow),
    "suspend": _Verb("suspend ID [noflush]", 1, 2, _suspend),
    "resume": _Verb("resume ID", 1, 1, _resume),
    "cancel": _Verb("cancel ID", 1, 1, _cancel),
}
