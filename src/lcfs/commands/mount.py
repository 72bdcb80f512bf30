# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs mount`: caches and disks as a tree of files, served by a daemon in the background."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from lcfs.commands.arguments import DEFAULT_CACHE_SIZE, Parser, parse_size
from lcfs.commands.failure import MOUNT_FAILED, MOUNT_USAGE, CommandFailed

if TYPE_CHECKING:
    from lcfs.commands.background import Reporter
    from lcfs.commands.mount_plan import MountPlan

NAME = "mount"
HELP = "mount caches and their disks, creating what is missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    if isinstance(parser, Parser):
        parser.usage_exit = MOUNT_USAGE
    parser.add_argument("mountpoint", metavar="MNT", help="an empty directory")
    parser.add_argument(
        "--cache",
        metavar="[ID=]IMAGE",
        action="append",
        required=True,
        help="a cache image, created when missing; repeat for more caches",
    )
    parser.add_argument("--cache-size", metavar="SIZE", help="size of an image that is created (default: 256M)")
    parser.add_argument(
        "--device",
        metavar="[ID=]PATH[,size=SIZE][,cache=ID][,name=NAME]",
        action="append",
        default=[],
        help="a disk on the backing PATH, created when missing; cache=0: without a cache; repeat for more disks",
    )
    parser.add_argument("-o", metavar="OPTS", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-d", "--debug", action="store_true", help="stay in the foreground and log everything")
    parser.add_argument("--live", action="store_true", help="stay in the foreground with a one-line status")
    parser.add_argument("--pid-file", metavar="FILE", help="write the daemon's pid here; removed when it ends")
    parser.add_argument("--log", metavar="FILE", help="append the log here (default: stderr or syslog)")


def run(options: argparse.Namespace) -> int:
    """Check what can be checked without the engine, then start the daemon."""
    from lcfs.commands import background

    plan = plan_of(options)
    if plan.background:
        return background.start(partial(_serve, plan), plan.mountpoint)
    return _serve(plan, background.Terminal())


def plan_of(options: argparse.Namespace) -> MountPlan:
    """What the daemon is to do. Clears a dead mount away; changes nothing else. Raises CommandFailed."""
    from lcfs.commands import mount_point, mount_words
    from lcfs.commands.background import Terminal
    from lcfs.commands.mount_options import parse_options
    from lcfs.commands.mount_plan import MountPlan

    try:
        caches = tuple(mount_words.parse_cache(word) for word in options.cache)
        devices = tuple(mount_words.parse_device(word) for word in options.device)
        mount_words.require_distinct([cache.id for cache in caches], what="cache")
        mount_words.require_distinct([device.id for device in devices], what="disk")
        cache_size = parse_size(options.cache_size) if options.cache_size is not None else DEFAULT_CACHE_SIZE
        mount_options = parse_options(options.options)
    except ValueError as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None
    mountpoint = mount_point.prepare(options.mountpoint, nonempty=mount_options.nonempty, note=Terminal().note)
    for path in [cache.path for cache in caches] + [device.path for device in devices]:
        mount_point.require_outside(mountpoint, path)
    return MountPlan(
        mountpoint=mountpoint,
        caches=caches,
        devices=devices,
        cache_size=cache_size,
        options=mount_options,
        live=options.live,
        debug=options.debug,
        background=not (options.foreground or options.debug or options.live),
        pid_file=_writable(options.pid_file),
        log_file=_writable(options.log),
    )


def _writable(path: str | None) -> str | None:
    """The absolute path of a file that the daemon will be able to write; it is not made here."""
    if path is None:
        return None
    path = os.path.abspath(path)
    directory = os.path.dirname(path)
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise CommandFailed(f"{path} cannot be written; give a file in a directory that is there", MOUNT_FAILED)
    return path


def _serve(plan: MountPlan, reporter: Reporter) -> int:
    from lcfs.commands.daemon import serve  # in the daemon: the parent needs neither trio nor pyfuse3

    return serve(plan, reporter)
