# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs mount`: caches and disks as a tree of files, served by a daemon in the background."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from lcfs.commands.arguments import DEFAULT_CACHE_SIZE, TAB, Parser, parse_size
from lcfs.commands.failure import MOUNT_FAILED, MOUNT_USAGE, CommandFailed
from lcfs.commands.loose_link import require_no_loose_link

if TYPE_CHECKING:
    from lcfs.commands.background import Reporter
    from lcfs.commands.mount_plan import MountPlan
    from lcfs.commands.tab import Entry

NAME = "mount"
HELP = "mount caches and their disks, creating what is missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    parser.set_defaults(usage_error=parser.error)
    if isinstance(parser, Parser):
        parser.usage_exit = MOUNT_USAGE
    parser.add_argument("mountpoint", metavar="MNT", nargs="?", help="an empty directory; or a name in the tab file")
    parser.add_argument(
        "--cache",
        metavar="[ID=]IMAGE",
        action="append",
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
    parser.add_argument("-a", "--all", action="store_true", help="mount what the tab file names and is not mounted yet")
    parser.add_argument("--tab", metavar="FILE", default=TAB, help=f"the tab file, see lcfs.toml(5) (default: {TAB})")
    parser.add_argument("-o", metavar="OPTS", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("--metrics", metavar="ADDR:PORT", help="serve MNT/metrics over HTTP there, without any authentication")
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-d", "--debug", action="store_true", help="stay in the foreground and log everything")
    parser.add_argument("--live", action="store_true", help="stay in the foreground with a one-line status")
    parser.add_argument("--pid-file", metavar="FILE", help="write the daemon's pid here; removed when it ends")
    parser.add_argument("--log", metavar="FILE", help="append the log here (default: stderr or syslog)")


def run(options: argparse.Namespace) -> int:
    """Check what can be checked without the engine, then start the daemon."""
    if options.all:
        return _run_all(options)
    if options.mountpoint is None:
        options.usage_error("MNT is missing; give a directory, a name in the tab file, or --all")
    return start(plan_of(options))


def start(plan: MountPlan) -> int:
    """Serve a plan in the background or here; the exit code."""
    from lcfs.commands import background

    if plan.background:
        return background.start(partial(_serve, plan), plan.mountpoint)
    return _serve(plan, background.Terminal())


def _run_all(options: argparse.Namespace) -> int:
    from lcfs.commands.mount_all import mount_all

    if options.mountpoint is not None or options.cache or options.foreground or options.debug or options.live:
        options.usage_error("--all takes its mounts from the tab file and leaves them in the background")
    if options.device or options.cache_size or options.pid_file or options.log or options.metrics:
        options.usage_error("--all takes the words of each mount from the tab file; write them there")
    try:
        return mount_all(options.tab, lambda entry: start(_plan(options, entry)))
    except CommandFailed as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None


def plan_of(options: argparse.Namespace) -> MountPlan:
    """What the daemon is to do. Clears a dead mount away; changes nothing else. Raises CommandFailed.

    Without --cache the mount point, or a name, is looked up in the tab file, as mount(8) does in fstab.
    """
    from lcfs.commands import mount_words, tab

    if not options.cache:
        if options.device or options.cache_size:
            options.usage_error("--device and --cache-size go with --cache; without it the tab file says it all")
        try:
            return _plan(options, tab.find(options.tab, options.mountpoint))
        except CommandFailed as error:
            raise CommandFailed(str(error), MOUNT_FAILED) from None
    try:
        caches = tuple(mount_words.parse_cache(word) for word in options.cache)
        devices = tuple(mount_words.parse_device(word) for word in options.device)
        mount_words.require_distinct([cache.id for cache in caches], what="cache")
        mount_words.require_distinct([device.id for device in devices], what="disk")
        cache_size = parse_size(options.cache_size) if options.cache_size is not None else DEFAULT_CACHE_SIZE
    except ValueError as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None
    return _plan(options, tab.Entry(options.mountpoint, options.mountpoint, caches, devices, cache_size, (), None, True))


def _plan(options: argparse.Namespace, entry: Entry) -> MountPlan:
    """The plan for an entry of the tab file, or for what the command line says instead of one."""
    from lcfs.commands import mount_point
    from lcfs.commands.background import Terminal
    from lcfs.commands.metrics_address import parse_address
    from lcfs.commands.mount_options import parse_options
    from lcfs.commands.mount_plan import MountPlan

    try:
        metrics = [] if options.metrics is None else [f"metrics={parse_address(options.metrics)}"]
        mount_options = parse_options([*entry.options, *options.options, *metrics])
    except ValueError as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None
    mountpoint = mount_point.prepare(entry.mountpoint, nonempty=mount_options.nonempty, note=Terminal().note)
    for path in [cache.path for cache in entry.caches] + [device.path for device in entry.devices]:
        mount_point.require_outside(mountpoint, path)
        require_no_loose_link(path, MOUNT_FAILED)
    background = not (options.foreground or options.debug or options.live)
    return MountPlan(
        mountpoint=mountpoint,
        caches=entry.caches,
        devices=entry.devices,
        cache_size=entry.cache_size,
        options=mount_options,
        live=options.live,
        debug=options.debug,
        background=background,
        service="NOTIFY_SOCKET" in os.environ and not background,
        pid_file=_writable(options.pid_file),
        log_file=_writable(options.log or entry.log),
    )


def _writable(path: str | None) -> str | None:
    """The absolute path of a file that the daemon will be able to write; it is not made here."""
    if path is None:
        return None
    path = os.path.abspath(path)
    require_no_loose_link(path, MOUNT_FAILED)
    directory = os.path.dirname(path)
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise CommandFailed(f"{path} cannot be written; give a file in a directory that is there", MOUNT_FAILED)
    return path


def _serve(plan: MountPlan, reporter: Reporter) -> int:
    from lcfs.commands.daemon import serve  # in the daemon: the parent needs neither trio nor pyfuse3

    return serve(plan, reporter)
