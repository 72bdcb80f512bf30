# SPDX-License-Identifier: GPL-2.0-or-later
"""The attributes of a cache and of a disk: a row for each (after dm-lc's own attribute tables).

Names, modes, defaults and meaning are those of 2013 where dm-lc has the attribute. A row's `show` gives the value, to
which the tree adds the newline; its `store` has done all there is to do when it returns, or raises and has changed
nothing. Ranges of tunables are the engine's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs

from lcfs.engine import Cache, Device, Invalid, Manager
from lcfs.engine.tunables import TUNABLES, parse_unsigned
from lcfs.tree_loops import LoopDevices
from lcfs.tree_segments import segments_text

T = TypeVar("T")

READ = 0o444
READ_WRITE = 0o644


@attrs.frozen
class Surroundings:
    """What a row may ask besides the cache or disk it is about."""

    manager: Manager
    loops: LoopDevices


@attrs.frozen
class Attribute(Generic[T]):
    """A row: `store` is None where the mode has no `w`."""

    name: str
    mode: int
    show: Callable[[Surroundings, T], str]
    store: Callable[[Surroundings, T, str], Awaitable[None]] | None = None


def _tunable(name: str) -> Attribute[Cache]:
    async def store(_: Surroundings, cache: Cache, text: str) -> None:
        await cache.set_tunable(name, parse_unsigned(text))

    return Attribute(name, READ_WRITE, lambda _, cache: str(cache.tunables[name]), store)


def _action(name: str, act: Callable[[Cache], Awaitable[None]]) -> Attribute[Cache]:
    """Reads 0, takes only 1, and is finished when the write returns."""

    async def store(_: Surroundings, cache: Cache, text: str) -> None:
        value = parse_unsigned(text)
        if value != 1:
            raise Invalid(f"{name} takes 1, not {value}")
        await act(cache)

    return Attribute(name, READ_WRITE, lambda _, cache: "0", store)


async def _clear_stat(cache: Cache) -> None:
    cache.stats.clear()


async def _store_scrub(_: Surroundings, cache: Cache, text: str) -> None:
    value = parse_unsigned(text)
    if value not in (0, 1):
        raise Invalid(f"scrub takes 0 and 1, not {value}")
    if value:
        cache.start_scrub()
    else:
        cache.scrub.stop()


async def _store_migrate_threshold(at: Surroundings, device: Device, text: str) -> None:
    await at.manager.set_migrate_threshold(device, parse_unsigned(text))


async def _store_name(at: Surroundings, device: Device, text: str) -> None:
    await at.manager.set_device_name(device, text.removesuffix("\n"))


async def _store_suspended(at: Surroundings, device: Device, text: str) -> None:
    value = parse_unsigned(text)
    if value not in (0, 1):
        raise Invalid(f"suspended takes 0 and 1, not {value}")
    if value:
        await at.manager.suspend(device)
    else:
        at.manager.resume(device)


CACHE_ATTRIBUTES: tuple[Attribute[Cache], ...] = (
    *(_tunable(name) for name in TUNABLES),
    _action("flush_current_buffer", lambda cache: cache.flush_current_buffer()),
    _action("commit_super_block", lambda cache: cache.commit_super_block()),
    Attribute("last_flushed_segment_id", READ, lambda _, cache: str(cache.last_flushed_segment_id)),
    Attribute("last_migrated_segment_id", READ, lambda _, cache: str(cache.last_migrated_segment_id)),
    # lcfs's own from here on
    Attribute("state", READ, lambda _, cache: cache.state),
    Attribute("migration", READ, lambda _, cache: cache.migration),
    Attribute("stats", READ, lambda _, cache: cache.stats.text()),
    _action("clear_stat", _clear_stat),
    _action("drop_caches", lambda cache: cache.drop_caches()),
    Attribute("scrub", READ_WRITE, lambda _, cache: cache.scrub.text, _store_scrub),
    Attribute("nr_segments", READ, lambda _, cache: str(cache.nr_segments)),
    Attribute("nr_caches", READ, lambda _, cache: str(cache.nr_caches)),
    Attribute("nr_dirty_caches", READ, lambda _, cache: str(cache.nr_dirty_caches)),
    Attribute("segments", READ, lambda _, cache: segments_text(cache)),
    Attribute("uuid", READ, lambda _, cache: str(cache.uuid)),
    # what dm-lc prints with the cursor on this cache
    Attribute("status", READ, lambda _, cache: f"\ncurrent cache_id_ptr: {cache.id}\n{cache.status_text()}"),
)
"""`caches/<id>/`, beside the link `device`."""

BLOCK_ATTRIBUTES: tuple[Attribute[Device], ...] = (
    Attribute("cache_id", READ, lambda _, device: str(device.cache_id)),
    Attribute("dev", READ, lambda at, device: " ".join(at.loops.bound_to(f"devices/{device.id}"))),
    Attribute("device_no", READ, lambda _, device: device.device_number()),
    Attribute("migrate_threshold", READ_WRITE, lambda _, device: str(device.migrate_threshold), _store_migrate_threshold),
    Attribute("nr_dirty_caches", READ, lambda _, device: str(device.nr_dirty_caches)),
    # lcfs's own from here on
    Attribute("name", READ_WRITE, lambda _, device: device.name, _store_name),
    Attribute("size", READ, lambda _, device: str(device.size)),
    Attribute("uuid", READ, lambda _, device: str(device.uuid)),
    Attribute("state", READ, lambda _, device: device.state),
    Attribute("suspended", READ_WRITE, lambda _, device: str(int(device.suspended)), _store_suspended),
)
"""`block/<id>/`, beside the link `device`."""
