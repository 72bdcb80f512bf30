# SPDX-License-Identifier: GPL-2.0-or-later
"""What the keys of `lcfs top` do. It knows neither the terminal nor the mount: keys and answers in, stores out."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from lcfs.commands.top_asker import Refused, Store
from lcfs.commands.top_model import CacheLook, DiskLook, History, Look

INTERVALS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds; what + and - go through."""
MOST_DIGITS = 9


class _Question(NamedTuple):
    """`typed` is None where y or n is the answer, else what was typed of a number; `then` makes the store of it."""

    text: str
    typed: str | None
    then: Callable[[str], Store]


class Session:
    """One run: what is chosen, asked and said."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.history = History()
        self.look: Look | None = None
        self.cache_id: int | None = None
        self.disk_id: int | None = None
        self.is_over = False
        self.paused = False
        self.helping = False
        self.message = ""
        self.under_way: Store | None = None
        self._question: _Question | None = None

    @property
    def question(self) -> str:
        """What the next key answers; empty: nothing."""
        if self._question is None:
            return ""
        return self._question.text + ("" if self._question.typed is None else f"{self._question.typed}_")

    def seen(self, look: Look) -> None:
        """One more look."""
        self.look = look
        self.history.add(look)
        if self.cache_id not in look.caches:
            self.cache_id = next(iter(look.caches), None)
        if self.disk_id not in look.disks:
            self.disk_id = next(iter(look.disks), None)

    def answered(self, answer: Store | Refused) -> None:
        """The store that was under way is done, or was refused."""
        self.under_way = None
        self.message = f"{answer}: done" if isinstance(answer, Store) else answer.sentence

    def key(self, name: str) -> Store | None:
        """What is to be stored now, if anything."""
        if self._question is not None:
            return self._begun(self._reply(self._question, name))
        self.message = ""
        if self.helping:
            self.helping = False
            if name != "q":
                return None
        if act := self._plain.get(name):
            act(self)
        elif make := self._stores.get(name):
            if self.under_way is not None:
                self.message = f"{self.under_way} is still under way"
            else:
                return self._begun(make(self))
        return None

    def _begun(self, store: Store | None) -> Store | None:
        if store is not None:
            self.under_way = store
        return store

    def _reply(self, question: _Question, name: str) -> Store | None:
        self._question = None
        if question.typed is None:
            return question.then("1") if name == "y" else None
        if name in ("escape", "q"):
            return None
        if name == "enter":
            return question.then(question.typed) if question.typed else None
        typed = question.typed[:-1] if name == "backspace" else question.typed
        if name.isdecimal() and len(typed) < MOST_DIGITS:
            typed += name
        self._question = question._replace(typed=typed)
        return None

    @property
    def _cache(self) -> CacheLook | None:
        return self.look.caches.get(self.cache_id or 0) if self.look is not None else None

    @property
    def _disk(self) -> DiskLook | None:
        return self.look.disks.get(self.disk_id or 0) if self.look is not None else None

    # Keys that change nothing of the mount

    def _quit(self) -> None:
        self.is_over = True

    def _help(self) -> None:
        self.helping = True

    def _pause(self) -> None:
        self.paused = not self.paused

    def _next_cache(self) -> None:
        ids = list(self.look.caches) if self.look is not None else []
        if self.cache_id in ids:
            self.cache_id = ids[(ids.index(self.cache_id) + 1) % len(ids)]

    def _move(self, step: int) -> None:
        ids = list(self.look.disks) if self.look is not None else []
        if self.disk_id in ids:
            self.disk_id = ids[min(len(ids) - 1, max(0, ids.index(self.disk_id) + step))]

    def _slower(self) -> None:
        self.interval = INTERVALS[min(len(INTERVALS) - 1, bisect.bisect_right(INTERVALS, self.interval))]

    def _faster(self) -> None:
        self.interval = INTERVALS[max(0, bisect.bisect_left(INTERVALS, self.interval) - 1)]

    _plain: ClassVar[dict[str, Callable[[Session], None]]] = {
        "q": _quit,
        "?": _help,
        "space": _pause,
        "c": _next_cache,
        "up": lambda self: self._move(-1),
        "down": lambda self: self._move(1),
        "+": _slower,
        "-": _faster,
    }

    # Keys that do

    def _force(self) -> Store | None:
        if (cache := self._cache) is None:
            return None
        return Store(str(1 - cache.force_migrate), ("caches", cache.id, "force_migrate"))

    def _allow(self) -> Store | None:
        if (cache := self._cache) is None:
            return None
        if cache.update_interval:
            self.message = f"update_interval is {cache.update_interval}: the modulator sets allow_migrate, not you"
            return None
        return Store(str(1 - cache.allow_migrate), ("caches", cache.id, "allow_migrate"))

    def _flush(self) -> Store | None:
        return None if (cache := self._cache) is None else Store("1", ("caches", cache.id, "flush_current_buffer"))

    def _suspend(self) -> Store | None:
        if (disk := self._disk) is None:
            return None
        parts = ("block", disk.id, "suspended")
        if disk.suspended:
            return Store("0", parts)
        text = f"suspend disk {disk.id}? Its users wait until it is resumed: y or n "
        self._question = _Question(text, None, lambda value: Store(value, parts))
        return None

    def _threshold(self) -> Store | None:
        if (disk := self._disk) is None:
            return None
        parts = ("block", disk.id, "migrate_threshold")
        text = f"migrate_threshold of disk {disk.id}, {disk.threshold} now (Enter, or Esc): "
        self._question = _Question(text, "", lambda value: Store(value, parts))
        return None

    _stores: ClassVar[dict[str, Callable[[Session], Store | None]]] = {
        "m": _force,
        "a": _allow,
        "f": _flush,
        "s": _suspend,
        "t": _threshold,
    }
