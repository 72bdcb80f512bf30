# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs umount`: drain, commit, unmount, and wait until the daemon is gone."""

from __future__ import annotations

import argparse
import errno
import os
import sys

from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import FAILED, INTERRUPTED, MOUNT_FAILED, CommandFailed
from lcfs.commands.mounts import all_mounts, holders_of, is_dead, the_mount, unmount
from lcfs.commands.progress import ProgressLine
from lcfs.commands.run_file import Watch, forget

NAME = "umount"
HELP = "write everything that is only in RAM, unmount, and wait for the daemon"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    parser.add_argument("mountpoint", metavar="MNT", help="the mounted lcfs")


def run(options: argparse.Namespace) -> int:
    """End one lcfs; 32 with the reason when it stays."""
    try:
        mount = the_mount(options.mountpoint)
        if is_dead(mount.mountpoint):
            unmount(mount.mountpoint, lazy=True)
            forget(mount)
            print(f"lcfs umount: the daemon of {mount.mountpoint} was gone; took the dead mount away", file=sys.stderr)
            return 0
        if os.access(mount.mountpoint, os.R_OK):  # not for root where a user mounted; the daemon drains all the same
            drain(Tree(mount.mountpoint))
        watch = Watch(mount)
        try:
            unmount(mount.mountpoint)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise CommandFailed(f"{mount.mountpoint} is busy: {holders_of(mount.mountpoint)}") from None
    except CommandFailed as error:
        raise CommandFailed(str(error), MOUNT_FAILED) from None
    if elsewhere := [other.mountpoint for other in all_mounts() if other.device == mount.device]:
        print(f"lcfs umount: the daemon goes on, it is mounted at {elsewhere[0]} too", file=sys.stderr)
        return 0
    wait(watch)
    return 0


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
