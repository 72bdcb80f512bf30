# SPDX-License-Identifier: GPL-2.0-or-later
"""One bit flipped in each region of an image: what `check`, `mount` and a reader say. The table is in docs/reliability.md.

With `-s` it is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import trio
from trio.testing import MockClock as Clock

from lcfs.commands.check import examine
from lcfs.engine.disk_format import SUPERBLOCK_COPIES
from lcfs.engine.errors import LcfsError
from lcfs.engine.geometry import LINE
from lcfs.engine.log_reader import LogReader, Record
from lcfs.engine.spec import DeviceSpec
from lcfs.engine.superblock import read_superblock
from lcfs.testing import MemoryStorage, MemoryStore, keep_all
from tests.engine.bench import DISK, Bench, read, write
from tests.engine.rig import page
from tests.plugins.log_check import ExpectLog

IMAGE = "/ssd.img"
DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
CLEAN = range(7)
"""Lines of a segment that was written back and given up."""
BEFORE_HEAD = range(10, 13)
AFTER_HEAD = range(20, 23)
"""Dirty lines, each in a record of its own, before and behind what the superblock says is durable."""


@attrs.frozen
class Places:
    """Byte offsets in the image."""

    by_line: dict[int, int]
    headers: dict[int, int]
    """Of the record that a line is in."""
    old_segment: int
    unused: int
    """A block of a segment in use that no record takes."""
    free: int
    """A slot that was never written."""


async def made() -> tuple[Bench, Places]:
    """A killed mount with lines of every kind on its image."""
    bench = Bench()
    await bench.image()
    async with bench.mount(devices=(DeviceSpec("/disk1.img", size=DISK),)) as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await cache.set_tunable("update_interval", 0)
        await cache.set_tunable("allow_migrate", 0)
        for line in CLEAN:
            await write(disk, line * LINE, page(line))
        await cache.drop_caches()
        old_segment = disk.table.index[0] * LINE
        for line in BEFORE_HEAD:
            await write(disk, line * LINE, page(line))
            await disk.flush()
        cache.close_segment()
        await cache.commit_super_block()
        for line in AFTER_HEAD:
            await write(disk, line * LINE, page(line))
            await disk.flush()
        indices = {line: disk.table.index[line] for line in (*BEFORE_HEAD, *AFTER_HEAD)}
        geometry = cache.geometry
        storage = bench.storage.crash(keep_all)
    store = MemoryStore(storage.media[IMAGE].crash(keep_all), IMAGE, yields=False)
    records: list[Record] = [record async for record in LogReader(store, await read_superblock(store)).walk()]
    firsts = {record.first_index: (record.first_index - 1) * LINE for record in records}
    unused = (geometry.start_block(3) - 1) * LINE
    assert len(records) == 6
    assert all(index in firsts for index in indices.values())
    bench.storage = storage
    return bench, Places(
        {line: index * LINE for line, index in indices.items()},
        {line: firsts[index] for line, index in indices.items()},
        old_segment,
        unused,
        geometry.start_block(12) * LINE,
    )


REGIONS: dict[str, Callable[[Places], tuple[int, ...]]] = {
    "superblock copy 0": lambda at: (SUPERBLOCK_COPIES[0] + 100,),
    "superblock copy 1": lambda at: (SUPERBLOCK_COPIES[1] + 100,),
    "both superblock copies": lambda at: tuple(copy + 100 for copy in SUPERBLOCK_COPIES),
    "padding of a superblock's block": lambda at: (SUPERBLOCK_COPIES[0] + LINE - 1,),
    "superblock area behind a copy": lambda at: (SUPERBLOCK_COPIES[0] + 64 * LINE,),
    "record header before `head`": lambda at: (at.headers[11] + 40,),
    "padding of that header's block": lambda at: (at.headers[11] + LINE - 1,),
    "record header behind `head`": lambda at: (at.headers[21] + 40,),
    "header of the very last record": lambda at: (at.headers[22] + 40,),
    "dirty line before `head`": lambda at: (at.by_line[11] + 5,),
    "dirty line behind `head`": lambda at: (at.by_line[21] + 5,),
    "line of the very last record": lambda at: (at.by_line[22] + 5,),
    "unused block of a segment in use": lambda at: (at.unused + 5,),
    "old segment, given up": lambda at: (at.old_segment + 5,),
    "free slot": lambda at: (at.free + 5,),
}


def flip(storage: MemoryStorage, offset: int) -> None:
    for image in (storage.media[IMAGE].live, storage.media[IMAGE].durable):
        image.write(offset, bytes([image.read(offset, 1)[0] ^ 0x10]))


async def checked(storage: MemoryStorage) -> str:
    store = MemoryStore(storage.media[IMAGE].crash(keep_all), IMAGE, readonly=True)
    report = await examine(store)
    said = ", ".join(f"{count} {kind}" for kind, count in report["counts"].items())
    if not said and report["verdict"] == "torn":
        said = "no damage, a torn tail"
    return f"{said or 'no damage'}; {4 if report['errors'] else 0}"


async def mounted(bench: Bench) -> tuple[str, str]:
    """What mount says, and what becomes of every line."""
    read_as: dict[str, list[int]] = {}
    try:
        async with bench.mount() as manager:
            cache, disk = manager.caches[1], manager.devices[1]
            for line in (*CLEAN, *BEFORE_HEAD, *AFTER_HEAD):
                try:
                    content = await read(disk, line * LINE, LINE)
                except LcfsError as error:
                    assert error.errno == 5
                    read_as.setdefault("EIO", []).append(line)
                else:
                    assert content in (page(line), bytes(LINE))
                    read_as.setdefault("right" if content == page(line) else "as before", []).append(line)
            state = cache.state
    except LcfsError as error:
        return f"refused, {type(error).__name__}", "-"
    said = [sentence for sentence in bench.said if "damaged" in sentence]
    how = "mounts, tells" if said else "mounts"
    reads = [f"line {lines[0]} {kind}" for kind, lines in read_as.items() if kind != "right" and len(lines) == 1]
    assert len(reads) == len(read_as) - 1
    return f"{how}; `{' '.join(state.split()[:1])}`", ", ".join(reads) or "all right"


async def while_in_use(line: int) -> tuple[str, str, str]:
    """A bit that flips while the image is mounted: what a scrub says, the state, a read."""
    bench, _ = await made()
    async with bench.mount() as manager:
        cache, disk = manager.caches[1], manager.devices[1]
        await cache.set_tunable("update_interval", 0)
        await cache.set_tunable("allow_migrate", 0)
        if line in CLEAN:
            await write(disk, line * LINE, page(line))
            await cache.drop_caches()
        flip(bench.storage, disk.table.index[line] * LINE + 5)
        cache.start_scrub()
        await cache.scrub.wait()
        said = ", ".join(part for part in cache.scrub.text.partition("; ")[2].split(", ") if not part.startswith("0 "))
        try:
            assert await read(disk, line * LINE, LINE) == page(line)
            outcome = "right, from the backing"
        except LcfsError as error:
            outcome = f"EIO: {str(error).partition(' on ')[0]}"
        return said, f"`{cache.state.split()[0]}`", outcome


async def test_the_table_of_flipped_bits(autojump_clock: Clock, expect_log: ExpectLog) -> None:
    expect_log(r"damaged|older than the log", at_least=1)
    rows = ["| bit in | `check` says; exit | `mount` says; `state` | reads |", "|---|---|---|---|"]
    for region, places_of in REGIONS.items():
        bench, places = await made()
        for offset in places_of(places):
            flip(bench.storage, offset)
        verdict = await checked(bench.storage)
        with trio.fail_after(1000):
            how, reads = await mounted(bench)
        rows.append(f"| {region} | {verdict} | {how} | {reads} |")
    rows += ["", "| bit flips while mounted, in | scrub says | `state` | reads |", "|---|---|---|---|"]
    for name, line in (("a clean line", 3), ("a dirty line", 11)):
        rows.append(f"| {name} | {' | '.join(await while_in_use(line))} |")
    table = "\n".join(rows)
    print(table)
    assert table in DOCUMENT.read_text(), f"docs/reliability.md should say:\n{table}"
