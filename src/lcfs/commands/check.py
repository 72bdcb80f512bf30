# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs check`: read a cache image that is not mounted and say whether everything in it is intact."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lcfs.commands.arguments import Parser, add_image_argument, add_json_option
from lcfs.commands.failure import (
    CHECK_CANCELLED,
    CHECK_ERRORS_LEFT,
    CHECK_OPERATIONAL,
    CHECK_USAGE,
    CommandFailed,
)
from lcfs.commands.listing import print_json
from lcfs.commands.progress import ProgressLine

if TYPE_CHECKING:
    from lcfs.engine.block_store import BlockStore
    from lcfs.engine.disk_format import Superblock

NAME = "check"
HELP = "verify a cache image that is not mounted; changes nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    if isinstance(parser, Parser):
        parser.usage_exit = CHECK_USAGE
    add_json_option(parser)
    add_image_argument(parser)


def run(options: argparse.Namespace) -> int:
    """fsck(8)'s bits: 0 intact, 4 damage was found, 8 the image could not be checked, 32 Ctrl-C."""
    from lcfs.commands.image import with_image

    try:
        report = with_image(options.image, examine)
    except CommandFailed as failure:
        raise CommandFailed(str(failure), CHECK_OPERATIONAL) from None
    except KeyboardInterrupt:
        raise CommandFailed(f"{options.image}: not checked to the end; nothing was changed", CHECK_CANCELLED) from None
    if options.json:
        print_json("images", [report])
    else:
        _print(report)
    return CHECK_ERRORS_LEFT if report["errors"] else 0


async def examine(store: BlockStore) -> dict[str, Any]:
    """What an image is and what is wrong with it, read as recovery reads it and with every line verified.

    Raises LcfsError where this is no image to check, OSError where it cannot be read.
    """
    from lcfs.commands.image import describe, superblock_errors
    from lcfs.engine.errors import Damaged
    from lcfs.engine.superblock import read_superblocks

    copies = await read_superblocks(store)
    errors = superblock_errors(copies)
    report: dict[str, Any] = {"image": store.name, "size": store.size}
    try:
        superblock = copies.best(store.name)
    except Damaged as error:
        return report | {"errors": [str(error).removeprefix(f"{store.name}: ")]}
    report |= describe(superblock) | await _walk(store, superblock, errors)
    return report | {"errors": errors}


async def _walk(store: BlockStore, superblock: Superblock, errors: list[str]) -> dict[str, Any]:
    from lcfs.engine.errors import Damaged
    from lcfs.engine.log_reader import LogReader

    line = ProgressLine()
    reader = LogReader(store, superblock, check_all=True)
    records = lines = 0
    try:
        async for record in reader.walk():
            records += 1
            lines += record.header.count
            segment_id, block = divmod(record.header.position, superblock.geometry.blocks_per_segment)
            line.show(f"segment {segment_id}: {records} records, {lines} lines so far")
            for row in record.bad_lines:
                disk, address = (int(record.header.entries[field][row]) for field in ("device_id", "line"))
                errors.append(
                    f"segment {segment_id}, block {block + 1 + row}: line {address} of disk {disk} does not match its checksum"
                )
    finally:
        line.clear()
    try:
        reader.require_no_hole()
    except Damaged as error:
        errors.append(str(error).removeprefix(f"{store.name}: "))
    return {"records": records, "lines": lines, "verdict": reader.verdict.value}


def _print(report: dict[str, Any]) -> None:
    name = report["image"]
    if "uuid" in report:
        how = "left by a clean stop" if report["clean"] else "not left by a clean stop, the next mount recovers it"
        print(f"{name}: cache {report['cache_id']}, uuid {report['uuid']}, {report['nr_segments']} segments; {how}")
        print(f"{name}: {report['records']} log records with {report['lines']} lines, from segment {report['tail']} on")
        for disk in report["disks"]:
            print(f"{name}: disk {disk['id']} {disk['name']!r}, {disk['size']} bytes, on {disk['path']}")
        if report["verdict"] == "torn":
            print(f"{name}: the last record is torn; it was never durable and does not count")
    for error in report["errors"]:
        print(f"{name}: DAMAGED: {error}")
    print(f"{name}: {'damaged' if report['errors'] else 'no damage found'}")
