# SPDX-License-Identifier: GPL-2.0-or-later
"""What `lcfs mount --live` shows: the next commands to type, then one line that tells how it goes."""

from __future__ import annotations

import os
import shlex
import sys

import trio

from lcfs.commands.background import Reporter
from lcfs.commands.mount_plan import MountPlan
from lcfs.engine import Cache, Manager

INTERVAL = 1.0
"""Seconds between two looks."""
LINE_BYTES = 4096
"""The counters count pieces of at most one line, so rates are rounded up to lines."""


async def show(manager: Manager, plan: MountPlan, reporter: Reporter) -> None:
    """Print the commands, then keep the line moving until cancelled."""
    reporter.note(next_commands(manager, plan))
    before = _pieces(manager)
    while True:
        await trio.sleep(INTERVAL)
        now = _pieces(manager)
        reporter.progress(status_line(manager, reads=now[0] - before[0], writes=now[1] - before[1]))
        before = now


def next_commands(manager: Manager, plan: MountPlan) -> str:
    """Commands that can be pasted into another terminal opened in the same directory."""
    tree = shlex.quote(os.path.relpath(plan.mountpoint))
    lines = [f"{tree} is mounted; in another terminal, from this directory:", ""]
    disks = [device.id for device in manager.devices.values() if device.present]
    if disks:
        lines += [
            f"  loop=$(losetup -f --show --direct-io=on {tree}/devices/{disks[0]})",
            "  mkfs.ext4 -q $loop && mkdir -p /mnt/disk && mount $loop /mnt/disk",
        ]
    lines += [f"  echo 1 > {tree}/caches/{id_}/flush_current_buffer" for id_ in sorted(manager.caches)[:1]]
    lines += [f"  {_ourselves()} status {tree}", "  umount /mnt/disk; losetup -d $loop"]
    return "\n".join([*lines, "", "Ctrl-C here unmounts cleanly."])


def status_line(manager: Manager, *, reads: int, writes: int) -> str:
    """All caches in one line; `reads` and `writes` are the pieces served in the last interval."""
    rates = f"write {_rate(writes)} read {_rate(reads)} MiB/s"
    return ", ".join([*(_cache(manager.caches[id_]) for id_ in sorted(manager.caches)), rates])


def _cache(cache: Cache) -> str:
    percent = 100 * cache.nr_dirty_caches / max(1, cache.nr_caches)
    segments = f"{cache.last_migrated_segment_id}..{cache.current_segment_id}"
    return f"cache {cache.id} {cache.state.split()[0]}, {cache.nr_dirty_caches} dirty ({percent:.1f} %), log {segments}"


def _rate(pieces: int) -> str:
    return f"{pieces * LINE_BYTES / INTERVAL / (1 << 20):.1f}"


def _pieces(manager: Manager) -> tuple[int, int]:
    """Pieces read and written so far; the lowest bit of a counter's index says write."""
    rows = [cache.stats.rows() for cache in manager.caches.values()]
    return sum(sum(row[0::2]) for row in rows), sum(sum(row[1::2]) for row in rows)


def _ourselves() -> str:
    command = sys.argv[0]
    return "python -m lcfs" if command.endswith("__main__.py") else shlex.quote(os.path.relpath(command))
