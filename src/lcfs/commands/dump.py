# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs dump`: what is in a cache image, for whoever studies the format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lcfs.commands.arguments import add_image_argument, add_json_option
from lcfs.commands.failure import CommandFailed
from lcfs.commands.listing import print_json, print_table

if TYPE_CHECKING:
    from lcfs.engine.block_store import BlockStore
    from lcfs.engine.disk_format import RecordHeader
    from lcfs.engine.geometry import Geometry

NAME = "dump"
HELP = "print the superblock and log of a cache image, or one segment line by line"

RECORD_COLUMNS = ("segment_id", "block", "generation", "count", "durable", "tail", "crc")
LINE_COLUMNS = ("block", "device_id", "line", "dirty", "crc", "intact")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_json_option(parser)
    add_image_argument(parser)
    parser.add_argument("segment_id", metavar="SEGMENT_ID", type=_segment_id, nargs="?", help="1 or more")


def run(options: argparse.Namespace) -> int:
    """Print the image, or the segment."""
    from lcfs.commands.image import with_image

    if options.segment_id is None:
        image = with_image(options.image, read_log)
        if options.json:
            print_json("images", [image])
        else:
            _print_image(image)
        return 0
    segment_id: int = options.segment_id

    async def read(store: BlockStore) -> list[dict[str, Any]]:
        return await read_segment(store, segment_id)

    records = with_image(options.image, read)
    if options.json:
        print_json("records", records)
    else:
        _print_records(records)
    return 0


async def read_log(store: BlockStore) -> dict[str, Any]:
    """The superblock in force and every record that counts, as recovery finds them."""
    from lcfs.commands.image import describe, superblock_errors
    from lcfs.engine.log_reader import LogReader
    from lcfs.engine.superblock import read_superblocks

    copies = await read_superblocks(store)
    superblock = copies.best(store.name)
    reader = LogReader(store, superblock)
    records = [describe_record(record.header, superblock.geometry) async for record in reader.walk()]
    return {
        "image": store.name,
        "size": store.size,
        **describe(superblock),
        "errors": superblock_errors(copies),
        "verdict": reader.verdict.value,
        "records": records,
    }


async def read_segment(store: BlockStore, segment_id: int) -> list[dict[str, Any]]:
    """Every intact record in the slot of `segment_id`, also those of other ids and of abandoned timelines.

    Raises CommandFailed where there is none.
    """
    from crc32c import crc32c

    from lcfs.engine.disk_format import unpack_record_header
    from lcfs.engine.geometry import LINE
    from lcfs.engine.superblock import read_superblock

    superblock = await read_superblock(store)
    geometry = superblock.geometry
    segment = memoryview(bytearray(geometry.segment_bytes))
    await store.readinto(geometry.start_block(segment_id) * LINE, segment)
    records = []
    for block in range(geometry.blocks_per_segment):
        header = unpack_record_header(segment[block * LINE : (block + 1) * LINE], superblock.uuid)
        if header is None:
            continue
        lines = []
        for row, entry in enumerate(header.entries[: geometry.blocks_per_segment - block - 1]):
            data = segment[(block + 1 + row) * LINE : (block + 2 + row) * LINE]
            lines.append(
                {
                    "block": block + 1 + row,
                    "device_id": int(entry["device_id"]),
                    "line": int(entry["line"]) | int(entry["line_high"]) << 32,
                    "dirty": int(entry["dirty"]),
                    "crc": int(entry["crc"]),
                    "intact": crc32c(data) == int(entry["crc"]),
                }
            )
        records.append(describe_record(header, geometry) | {"lines": lines})
    if not records:
        raise CommandFailed(
            f"{store.name} holds no record where segment {segment_id} would be; lcfs dump {store.name} lists the log"
        )
    return records


def describe_record(header: RecordHeader, geometry: Geometry) -> dict[str, Any]:
    """A record header as JSON."""
    segment_id, block = divmod(header.position, geometry.blocks_per_segment)
    return {
        "segment_id": segment_id,
        "block": block,
        "generation": header.generation,
        "count": header.count,
        "durable": header.durable,
        "tail": header.tail,
        "crc": header.crc,
    }


def _print_image(image: dict[str, Any]) -> None:
    for key, value in image.items():
        if key == "records":
            print_table(RECORD_COLUMNS, [[record[column] for column in RECORD_COLUMNS] for record in value])
        elif key == "disks":
            for disk in value:
                print("disk:", " ".join(f"{name}={field}" for name, field in disk.items()))
        elif key == "tunables":
            print("tunables:", " ".join(f"{name}={number}" for name, number in value.items()))
        elif key == "errors":
            for error in value:
                print(f"error: {error}")
        else:
            print(f"{key}: {value}")


def _print_records(records: list[dict[str, Any]]) -> None:
    for record in records:
        print("record:", " ".join(f"{column}={record[column]}" for column in RECORD_COLUMNS))
        print_table(LINE_COLUMNS, [_line_cells(line) for line in record["lines"]])


def _line_cells(line: dict[str, Any]) -> list[object]:
    cells = [line[column] for column in LINE_COLUMNS]
    return [*cells[:-1], "yes" if line["intact"] else "no"]


def _segment_id(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:20]) < 1 << 56:
        raise argparse.ArgumentTypeError(f"segment id {text!r} is not a number of 1 or more")
    return int(text)
