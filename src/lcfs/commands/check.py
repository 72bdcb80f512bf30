# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs check`: read a cache image that is not mounted, say what is wrong in it, and repair what can be repaired."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

from lcfs.commands.arguments import Parser, add_image_argument, add_json_option
from lcfs.commands.failure import (
    CHECK_CANCELLED,
    CHECK_CORRECTED,
    CHECK_ERRORS_LEFT,
    CHECK_OPERATIONAL,
    CHECK_USAGE,
    CommandFailed,
)
from lcfs.commands.listing import print_json
from lcfs.commands.progress import ProgressLine

if TYPE_CHECKING:
    from lcfs.engine.block_store import BlockStore
    from lcfs.engine.inspection import Damage, Inspection

NAME = "check"
HELP = "verify a cache image that is not mounted; changes nothing unless told to repair"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    if isinstance(parser, Parser):
        parser.usage_exit = CHECK_USAGE
    add_json_option(parser)
    parser.add_argument("--repair", action="store_true", help="do what can be done without losing anything")
    parser.add_argument(
        "--cut-log",
        action="store_true",
        help="with --repair: end the log at a hole, so that the image mounts again; everything behind the hole is given up",
    )
    add_image_argument(parser)


def run(options: argparse.Namespace) -> int:
    """fsck(8)'s bits: 0 intact, 1 repaired, 4 damage is left, 8 the image could not be checked, 16 usage, 32 Ctrl-C."""
    from lcfs.commands.image import with_image

    if options.cut_log and not options.repair:
        raise CommandFailed("--cut-log changes the image; say --repair with it", CHECK_USAGE)

    async def work(store: BlockStore) -> dict[str, Any]:
        return await (repair(store, cut=options.cut_log) if options.repair else examine(store))

    try:
        report = with_image(options.image, work, readonly=not options.repair)
    except CommandFailed as failure:
        raise CommandFailed(str(failure), CHECK_OPERATIONAL) from None
    except KeyboardInterrupt:
        raise CommandFailed(f"{options.image}: not checked to the end; nothing was changed", CHECK_CANCELLED) from None
    if options.json:
        print_json("images", [report])
    else:
        _print(report)
    return (CHECK_CORRECTED if report["repaired"] else 0) | (CHECK_ERRORS_LEFT if report["errors"] else 0)


async def examine(store: BlockStore) -> dict[str, Any]:
    """What an image is and what is wrong with it, read as recovery reads it and with every line verified.

    Raises LcfsError where this is no image to check, OSError where it cannot be read.
    """
    return _report(store, await _inspect(store), [])


async def repair(store: BlockStore, *, cut: bool) -> dict[str, Any]:
    """Repair what can be repaired, with `cut` also what costs data, then say what is left. Raises as `examine`."""
    from lcfs.engine.log_reader import Verdict
    from lcfs.engine.repair import cut_log, restore_superblock

    found = await _inspect(store)
    done = []
    # from here on Ctrl-C comes too late to say that nothing was changed
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if cut and found.verdict is Verdict.HOLE:
            done.append(await cut_log(store, found))
        elif found.superblock is not None and found.copies.damaged:
            done.append(await restore_superblock(store, found))
    except OSError as error:
        raise CommandFailed(f"{store.name} could not be repaired: {error.strerror}; look at the device under it") from None
    finally:
        signal.signal(signal.SIGINT, former)
    return _report(store, await _inspect(store) if done else found, done)


async def _inspect(store: BlockStore) -> Inspection:
    from lcfs.engine.inspection import inspect_image

    line = ProgressLine()
    try:
        return await inspect_image(store, line.show)
    finally:
        line.clear()


def _report(store: BlockStore, found: Inspection, repaired: list[str]) -> dict[str, Any]:
    from lcfs.commands.image import describe

    report: dict[str, Any] = {"image": store.name, "size": store.size}
    if found.superblock is not None:
        report |= describe(found.superblock)
        report |= {"records": found.records, "lines": found.lines, "verdict": found.verdict.value}
    damages = [_describe_damage(damage) for damage in found.damages]
    return report | {
        "errors": [damage.text for damage in found.damages],
        "damages": damages,
        "counts": found.counts(),
        "repaired": repaired,
    }


def _describe_damage(damage: Damage) -> dict[str, Any]:
    return {
        "verdict": damage.kind.value,
        "segment": damage.segment,
        "block": damage.block,
        "offset": damage.offset,
        "disk": damage.disk,
        "line": damage.line,
        "text": damage.text,
    }


def _print(report: dict[str, Any]) -> None:
    name = report["image"]
    for sentence in report["repaired"]:
        print(f"{name}: REPAIRED: {sentence}")
    if "uuid" in report:
        how = "left by a clean stop" if report["clean"] else "not left by a clean stop, the next mount recovers it"
        print(f"{name}: cache {report['cache_id']}, uuid {report['uuid']}, {report['nr_segments']} segments; {how}")
        print(f"{name}: {report['records']} log records with {report['lines']} lines, from segment {report['tail']} on")
        for disk in report["disks"]:
            print(f"{name}: disk {disk['id']} {disk['name']!r}, {disk['size']} bytes, on {disk['path']}")
        if report["verdict"] == "torn":
            print(f"{name}: the last record is torn; it was never durable and does not count")
    for damage in report["damages"]:
        at = "" if damage["offset"] is None else f" (byte {damage['offset']})"
        print(f"{name}: DAMAGED: {damage['text']}{at}")
    counts = ", ".join(f"{count} {kind}" for kind, count in report["counts"].items())
    print(f"{name}: {f'damaged: {counts}' if report['errors'] else 'no damage found'}")
