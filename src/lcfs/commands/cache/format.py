# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache format`: a new, empty cache on a file or block device that is not in use (2013: lc-format-cache)."""

from __future__ import annotations

import argparse
import fcntl
import os
import stat

from lcfs.commands.arguments import DEFAULT_CACHE_SIZE, add_image_argument, size
from lcfs.commands.failure import CommandFailed
from lcfs.commands.loose_link import require_no_loose_link

NAME = "format"
HELP = "make a new, empty cache image; anything but an image or nothing at all is kept without --force"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_image_argument(parser)
    parser.add_argument("--size", type=size, help="bytes, or with K, M, G, T, of a file that is made (default: 256M)")
    parser.add_argument(
        "--force",
        action="store_true",
        help="format whatever is there now; with --size, give a file that size first",
    )


def run(options: argparse.Namespace) -> int:
    """Create or take over IMAGE, and write the superblock."""
    import trio

    from lcfs.engine.errors import LcfsError

    require_no_loose_link(options.image)
    try:
        trio.run(format_path, os.path.abspath(options.image), options.size, options.force)
    except LcfsError as error:
        raise CommandFailed(str(error), error.exit_code) from None
    except OSError as error:
        raise CommandFailed(f"{options.image} could not be formatted: {error.strerror}") from None
    return 0


async def format_path(path: str, size: int | None, force: bool) -> None:
    """Format the image at `path`, `size` bytes where that is given and can be chosen.

    Raises CommandFailed, LcfsError, OSError; a path that was refused is as it was.
    """
    from lcfs.engine.file_store import FileStorage
    from lcfs.engine.formatting import format_image, require_formattable
    from lcfs.engine.geometry import Geometry

    storage = FileStorage()
    Geometry.for_size(size or DEFAULT_CACHE_SIZE)
    is_new = not storage.exists(path)
    former = None if is_new else _resize(path, size, force)
    try:
        store = await (storage.create(path, size or DEFAULT_CACHE_SIZE) if is_new else storage.open(path))
        try:
            if not force:
                await require_formattable(store)
            await format_image(store)
        except BaseException:
            if is_new:
                await storage.remove(path)
            raise
        finally:
            await store.close()
    except BaseException:
        if former is not None:
            os.truncate(path, former)
        raise


def _resize(path: str, wanted: int | None, force: bool) -> int | None:
    """Give a file the wanted size, an empty one any size at all; the size it had, None where nothing was changed."""
    status = os.stat(path)
    if stat.S_ISBLK(status.st_mode) and wanted is not None:
        raise CommandFailed(f"{path} is a device, which has the size it has; leave --size out")
    if not stat.S_ISREG(status.st_mode) or wanted == status.st_size or (wanted is None and status.st_size):
        return None
    if status.st_size and not force:
        raise CommandFailed(
            f"{path} has {status.st_size} bytes, not {wanted}; leave --size out, or add --force to give it that size"
        )
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandFailed(f"{path} is in use by another lcfs; unmount that one first") from None
        file.truncate(wanted or DEFAULT_CACHE_SIZE)
    return status.st_size
