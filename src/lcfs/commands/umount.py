# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs umount`: drain, commit, unmount, and wait until the daemon is gone."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time

from lcfs.commands.arguments import TAB
from lcfs.commands.cache.drop import drop
from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import FAILED, INTERRUPTED, MOUNT_FAILED, CommandFailed
from lcfs.commands.mounts import all_mounts, holders_of, is_dead, the_mount, unmount
from lcfs.commands.progress import ProgressLine
from lcfs.commands.run_file import Watch, forget

NAME = "umount"
HELP = "write everything that is only in RAM, unmount, and wait for the daemon"

RETRY = 1.0
"""Seconds between two attempts to unmount a busy tree."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    parser.set_defaults(usage_error=parser.error)
    parser.add_argument("mountpoint", metavar="MNT", nargs="?", help="the mounted lcfs; or its name in the tab file")
    parser.add_argument("--drain", action="store_true", help="first write every dirty line to the backings")
    parser.add_argument("--wait", action="store_true", help="while it is busy, wait instead of giving up")
    parser.add_argument("-a", "--all", action="store_true", help="unmount what the tab file names, the last first")
    parser.add_argument("--tab", metavar="FILE", default=TAB, help=f"the tab file, see lcfs.toml(5) (default: {TAB})")


def run(options: argparse.Namespace) -> int:
    """End one lcfs, or those of the tab file; 32 with the reason when it stays."""
    if options.all == (options.mountpoint is not None):
        options.usage_error("give a mount point, or --all and none")
    if not options.all:
        return end(_place(options), wait_while_busy=options.wait, drain_first=options.drain)
    from lcfs.commands.mount_all import umount_all

    return umount_all(options.tab, lambda entry: end(entry.mountpoint, wait_while_busy=options.wait, drain_first=options.drain))


def _place(options: argparse.Namespace) -> str:
    """The mount point; a word that names no mount and no path is a name of the tab file."""
    place: str = options.mountpoint
    if os.path.lexists(place) or "/" in place or not os.path.exists(options.tab):
        return place
    from lcfs.commands.tab import find

    try:
        return find(options.tab, place).mountpoint
    except CommandFailed as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None


def end(mountpoint: str, *, wait_while_busy: bool = False, drain_first: bool = False) -> int:
    """End the lcfs at `mountpoint`; the exit code. Raises CommandFailed: with 32 it is still mounted."""
    try:
        mount = the_mount(mountpoint)
        if is_dead(mount.mountpoint):
            unmount(mount.mountpoint, lazy=True)
            forget(mount)
            print(f"lcfs umount: the daemon of {mount.mountpoint} was gone; took the dead mount away", file=sys.stderr)
            return 0
        watch = Watch(mount)
        _take_down(mount.mountpoint, wait_while_busy=wait_while_busy, drain_first=drain_first)
    except CommandFailed as error:
        code = INTERRUPTED if error.exit_code == INTERRUPTED else MOUNT_FAILED
        raise CommandFailed(str(error), code) from None
    if elsewhere := [other.mountpoint for other in all_mounts() if other.device == mount.device]:
        print(f"lcfs umount: the daemon goes on, it is mounted at {elsewhere[0]} too", file=sys.stderr)
        return 0
    wait(watch)
    return 0


def _take_down(mountpoint: str, *, wait_while_busy: bool, drain_first: bool) -> None:
    """Write out and unmount, again and again where that is wanted: until it is free, somebody may write."""
    line = ProgressLine()
    try:
        while True:
            if drain_first:
                migrate(Tree(mountpoint))
            elif os.access(mountpoint, os.R_OK):  # not for root where a user mounted; the daemon drains all the same
                drain(Tree(mountpoint))
            try:
                unmount(mountpoint)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            holders = holders_of(mountpoint)
            if not wait_while_busy:
                raise CommandFailed(f"{mountpoint} is busy: {holders}")
            line.show(f"{mountpoint} is busy: {holders}")
            time.sleep(RETRY)
    except KeyboardInterrupt:
        raise CommandFailed(f"called off; {mountpoint} stays mounted", INTERRUPTED) from None
    finally:
        line.clear()


def migrate(tree: Tree) -> None:
    """Write every dirty line of every cache to its backing. Raises CommandFailed, after Ctrl-C with INTERRUPTED."""
    for id_ in tree.ids("caches"):
        if int(tree.read("caches", id_, "nr_dirty_caches")):
            drop(tree, id_, late=True)


def drain(tree: Tree) -> None:
    """Write the RAM buffers and commit, while a failure can still keep the tree mounted and the data in RAM."""
    for id_ in tree.ids("caches"):
        for action in ("flush_current_buffer", "commit_super_block"):
            try:
                tree.store("1", "caches", id_, action)
            except MessageRefused as error:
                if error.errno == errno.EROFS:
                    return
                raise CommandFailed(
                    f"cache {id_} could not write what is only in RAM ({error}), so {tree.mountpoint} stays mounted; "
                    f"umount {tree.mountpoint} gives that up"
                ) from None


def wait(watch: Watch) -> None:
    """Wait for the daemon's end. Raises CommandFailed when it was no clean stop."""
    line = ProgressLine()
    line.show(f"waiting for the daemon (pid {watch.pid}) to write what is left")
    try:
        failure = watch.wait()
    except KeyboardInterrupt:
        raise CommandFailed(
            f"the tree is unmounted, and the daemon (pid {watch.pid}) goes on writing what is left", INTERRUPTED
        ) from None
    finally:
        line.clear()
        watch.close()
    if failure is not None:
        raise CommandFailed(failure, FAILED)
