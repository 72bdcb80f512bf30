# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations that are swept: every kind of request, and everything that can be done with a mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from lcfs.engine.geometry import LINE, SECTOR
from tests.faults.bench import BLANK, IMAGES, LINES, NEW, OLD, SPEC_THAT_CREATES, Bench

Step = Callable[[Bench], Awaitable[None]]


async def in_ram(bench: Bench) -> None:
    """Acknowledged lines of every disk that are not on the image; on image and backings lies what `make_start` put there."""
    await bench.write(1, 6 * LINE, LINE)
    await bench.write(1, 7 * LINE + 3 * SECTOR, SECTOR)
    await bench.write(2, 6 * LINE, LINE)
    await bench.write(3, 6 * LINE, LINE)
    await bench.write(4, 6 * LINE, LINE)


async def nothing(bench: Bench) -> None:
    """Begin as the mount comes up."""


@attrs.frozen
class Act:
    """An operation: `do` is swept, `prepare` comes before it, undisturbed."""

    name: str
    do: Step
    prepare: Step = in_ram
    subjects: frozenset[int] = frozenset({1})
    """Disks whose requests may wait for it."""
    mounts: bool = False
    """It brings the mount up: before it there is none."""
    stops: bool = False
    """It takes the mount down: behind it there is none."""


def write(disk: int, offset: int, length: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.write(disk, offset, length)

    return do


def read(disk: int, offset: int, length: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.read(disk, offset, length)

    return do


def barrier(disk: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.barrier(disk)

    return do


def message(*lines: str) -> Step:
    async def do(bench: Bench) -> None:
        for line in lines:
            await bench.manager.message(line)

    return do


def after(*steps: Step) -> Step:
    """One behind the other."""

    async def do(bench: Bench) -> None:
        for step in steps:
            await step(bench)

    return do


async def fill_the_ring(bench: Bench) -> None:
    for turn in range(3):
        for line in range(0, LINES, 4):
            await bench.write(1, line * LINE, 4 * LINE - turn * SECTOR)


async def together(bench: Bench, *steps: Step) -> None:
    """Side by side, as requests are: what becomes of one is nothing to the others. Raises the first error."""
    errors: list[Exception] = []

    async def one(step: Step) -> None:
        try:
            await step(bench)
        except Exception as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:
        for step in steps:
            nursery.start_soon(one, step)
    if errors:
        raise errors[0]


async def side_by_side(bench: Bench) -> None:
    writes = [write(1, line * LINE + SECTOR, 2 * SECTOR) for line in (0, 4, 5)]
    await together(bench, *writes, barrier(1), barrier(2), barrier(1), read(1, 0, 8 * LINE))


async def flush_current_buffer(bench: Bench) -> None:
    barriers = [bench.model.begin_barrier(disk) for disk in (1, 2)]
    await bench.manager.caches[1].flush_current_buffer()
    for done in barriers:
        done.done()


async def drop_caches(bench: Bench) -> None:
    barriers = [bench.model.begin_barrier(disk) for disk in (1, 2)]
    await bench.manager.caches[1].drop_caches()
    for done in barriers:
        done.done()


async def migrate(bench: Bench) -> None:
    cache = bench.manager.caches[1]
    await bench.barrier(1)
    cache.close_segment()
    await cache.set_tunable("force_migrate", 1)
    await trio.sleep(3)


async def scrub(bench: Bench) -> None:
    cache = bench.manager.caches[1]
    cache.start_scrub()
    try:
        await cache.scrub.wait()
    finally:
        cache.scrub.stop()


async def set_tunable(bench: Bench) -> None:
    await bench.manager.caches[1].set_tunable("barrier_deadline_ms", 7)


async def commit_super_block(bench: Bench) -> None:
    await bench.manager.caches[1].commit_super_block()


async def rename(bench: Bench) -> None:
    await bench.manager.set_device_name(bench.device(1), "renamed")


async def rename_elsewhere(bench: Bench) -> None:
    await bench.manager.set_device_name(bench.device(3), "renamed")


async def set_threshold(bench: Bench) -> None:
    await bench.manager.set_migrate_threshold(bench.device(1), 33)


def attach(disk: int, cache: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.attach(disk, cache)

    return do


def detach(disk: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.detach(disk)

    return do


def remove(disk: int) -> Step:
    async def do(bench: Bench) -> None:
        await bench.remove(disk)

    return do


def grow(disk: int, *, beside_requests: bool = False) -> Step:
    async def do(bench: Bench) -> None:
        await bench.grow(disk, GROWN)
        await bench.write(disk, LINES * LINE - SECTOR, GROWN - LINES * LINE + SECTOR)
        await bench.barrier(disk)

    requests = [write(disk, 2 * LINE, 2 * LINE), write(disk, 9 * LINE + SECTOR, SECTOR), barrier(disk)]

    async def do_beside_requests(bench: Bench) -> None:
        await together(bench, *requests, do)

    return do_beside_requests if beside_requests else do


def create(path: str, cache: int, size: int | None = None) -> Step:
    async def do(bench: Bench) -> None:
        await bench.create(5, path, cache, size)

    return do


async def suspend(bench: Bench) -> None:
    done = bench.model.begin_barrier(1)
    await bench.manager.message("suspend 1")
    done.done()


async def resume_with_waiters(bench: Bench) -> None:
    async def resume(bench: Bench) -> None:
        await trio.sleep(1)
        await bench.manager.message("resume 1")

    await together(bench, after(write(1, 12 * LINE, LINE), barrier(1)), resume)


async def mount(bench: Bench) -> None:
    await bench.start()


async def mount_and_create(bench: Bench) -> None:
    bench.spec = SPEC_THAT_CREATES
    await bench.start()


async def stop(bench: Bench) -> None:
    await bench.stop()


NEW_SIZE = LINES * LINE
GROWN = (LINES + 4) * LINE + 3 * SECTOR
NONE = frozenset[int]()
ACTS: dict[str, Act] = {
    act.name: act
    for act in (
        Act("write aligned", write(1, 12 * LINE, LINE)),
        Act("write several segments", write(1, 0, 7 * LINE)),
        Act("overwrite part in RAM", write(1, 6 * LINE + SECTOR, SECTOR)),
        Act("write part, carry sectors", write(1, 4 * LINE + 5 * SECTOR, SECTOR)),
        Act("write unaligned", write(1, 4 * LINE + 100, 3000)),
        Act("write unaligned on the backing", write(1, 13 * LINE + 100, 5000)),
        Act("write more than the ring", fill_the_ring),
        Act("write without cache", write(4, 2 * LINE + SECTOR, LINE), subjects=frozenset({4})),
        Act("read RAM", read(1, 6 * LINE, LINE)),
        Act("read image", read(1, 0, 2 * LINE)),
        Act("read backing", read(1, 13 * LINE, 2 * LINE)),
        Act("read merged", read(1, 4 * LINE, LINE)),
        Act("read all", read(1, 0, LINES * LINE)),
        Act("read without cache", read(4, 0, 2 * LINE), subjects=frozenset({4})),
        Act("barrier", barrier(1)),
        Act("barrier without cache", barrier(4), subjects=frozenset({4})),
        Act("requests side by side", side_by_side),
        Act("flush_current_buffer", flush_current_buffer),
        Act("drop_caches", drop_caches, subjects=NONE),
        Act("migrate", migrate, subjects=NONE),
        Act("scrub", scrub, subjects=NONE),
        Act("set a tunable", set_tunable, subjects=NONE),
        Act("commit_super_block", commit_super_block, subjects=NONE),
        Act("rename", rename, subjects=NONE),
        Act("rename in another cache", rename_elsewhere, subjects=NONE),
        Act("set migrate_threshold", set_threshold, subjects=NONE),
        Act("attach", attach(4, 1), subjects=frozenset({4})),
        Act("attach to another cache", attach(4, 2), subjects=frozenset({4})),
        Act("detach", detach(1)),
        Act("detach from another cache", detach(3), subjects=frozenset({3})),
        Act("create on a new file", create(NEW, 0, NEW_SIZE), subjects=NONE),
        Act("create on a new file, attached", create(NEW, 1, NEW_SIZE), subjects=NONE),
        Act("create on a new file in another cache", create(NEW, 2, NEW_SIZE), subjects=NONE),
        Act("create on an existing file", create(OLD, 1), subjects=NONE),
        Act("remove", remove(1)),
        Act("remove without cache", remove(4), subjects=frozenset({4})),
        Act("grow", grow(1)),
        Act("grow beside requests", grow(1, beside_requests=True)),
        Act("grow in another cache", grow(3), subjects=frozenset({3})),
        Act("grow without cache", grow(4), subjects=frozenset({4})),
        Act("suspend", suspend),
        Act("suspend noflush", message("suspend 1 noflush")),
        Act("resume", resume_with_waiters, after(in_ram, message("suspend 1"))),
        Act("resume_cache", message("switch_to 4", f"resume_cache {IMAGES[4]}"), subjects=NONE),
        Act("free_cache", message("switch_to 3", "free_cache"), subjects=NONE),
        Act("format_cache_device", message(f"format_cache_device {BLANK}"), subjects=NONE),
        Act("mount", mount, nothing, mounts=True),
        Act("clean stop", stop, stops=True),
    )
}
