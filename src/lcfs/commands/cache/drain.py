# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache drain`: write the dirty lines of an image that is not mounted to its disks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from lcfs.commands.arguments import add_image_argument, add_json_option, parse_id
from lcfs.commands.arguments import path as checked_path
from lcfs.commands.failure import INTERRUPTED, USAGE, CommandFailed
from lcfs.commands.listing import print_json
from lcfs.commands.pace import Pace
from lcfs.commands.progress import INTERVAL, ProgressLine

if TYPE_CHECKING:
    from lcfs.engine.orphan import Orphan

NAME = "drain"
HELP = "write the dirty lines of a cache image that is not mounted to its disks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_json_option(parser)
    parser.add_argument(
        "--device",
        dest="devices",
        metavar="ID=PATH",
        type=_disk,
        action="append",
        required=True,
        help="where the backing of disk ID is now; once for each disk whose lines are to be written",
    )
    add_image_argument(parser)


def _disk(text: str) -> tuple[int, str]:
    number, equals, path = text.partition("=")
    try:
        if not equals:
            raise ValueError(f"{text!r} is not ID=PATH; lcfs dump IMAGE shows the ids")
        return parse_id(number, what="disk"), os.path.abspath(checked_path(path))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: argparse.Namespace) -> int:
    """0 when no line of the disks given is left, 1 when one is, 130 after Ctrl-C."""
    import trio

    from lcfs.engine.errors import Cancelled, LcfsError
    from lcfs.engine.file_store import FileStorage
    from lcfs.engine.orphan import Orphan

    backings = dict(options.devices)
    if len(backings) < len(options.devices):
        raise CommandFailed("a disk is given two backings; give each disk one", USAGE)
    line = ProgressLine()

    def say(sentence: str) -> None:
        line.clear()
        print(f"{options.prog}: {sentence}", file=sys.stderr)

    orphan = Orphan(FileStorage(), os.path.abspath(options.image), backings, say)
    try:
        trio.run(_drain, orphan, line)
    except Cancelled as error:
        raise CommandFailed(f"{error}; the same command goes on from there", INTERRUPTED) from None
    except LcfsError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandFailed(f"{options.image} cannot be used: {error.strerror}; look at the device under it") from None
    rows = [_row(orphan, number) for number in orphan.devices]
    if options.json:
        print_json("devices", rows)
    else:
        for row in rows:
            print(_sentence(row))
    return int(any(row["left"] for row in rows if row["id"] in backings))


async def _drain(orphan: Orphan, line: ProgressLine) -> None:
    import trio

    scope = trio.CancelScope()

    async def watch_signals() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()

    pace = Pace()

    async def show() -> None:
        while True:
            left = sum(orphan.devices[number].nr_dirty_caches for number in orphan.backings if number in orphan.devices)
            if line.is_due:
                line.show(f"{left} dirty lines to write{pace(left)}")
            await trio.sleep(INTERVAL)

    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_signals)
        nursery.start_soon(show)
        try:
            await orphan.drain(scope)
        except Exception as exc:
            failure = exc  # a nursery would wrap it
        line.clear()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _row(orphan: Orphan, number: int) -> dict[str, Any]:
    device = orphan.devices[number]
    error = orphan.errors.get(number)
    return {
        "id": number,
        "name": device.name,
        "path": orphan.backings.get(number),
        "written": orphan.found[number] - device.nr_dirty_caches,
        "left": device.nr_dirty_caches,
        "error": str(error) if error is not None else None,
    }


def _sentence(row: dict[str, Any]) -> str:
    if row["path"] is None:
        return f"disk {row['id']}: {row['left']} dirty lines stay in the image; give its backing with --device {row['id']}=PATH"
    text = f"disk {row['id']}: {row['written']} lines written to {row['path']}, {row['left']} left"
    return f"{text}: {row['error']}" if row["error"] else text
