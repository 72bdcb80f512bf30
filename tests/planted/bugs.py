# SPDX-License-Identifier: GPL-2.0-or-later
"""The bugs of 2013, planted: what is edited in the engine, and which checker is to find it."""

from __future__ import annotations

import attrs

from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.flush import Flusher
from lcfs.engine.log import Log
from lcfs.engine.log_reader import LogReader
from lcfs.engine.manager import Manager
from lcfs.engine.migrate import Migrator
from lcfs.engine.read_path import ReadPath
from lcfs.engine.recover import _count_dirty, replay, resume_cache
from lcfs.engine.startup import is_stale
from lcfs.engine.write_path import WritePath
from tests.planted.edit import Edit
from tests.planted.finders import CostFinder, Exploration, Finder, RotFinder, Sweep


@attrs.frozen
class Bug:
    """One row of the table."""

    name: str
    what: str
    """What is wrong with the engine once it is planted."""
    edits: tuple[Edit, ...]
    finder: Finder
    expected: tuple[str, ...]
    """Kinds of findings that show this bug."""
    note: str = ""
    """Where the bug of 2013 cannot be as it was: why, and how far this is from it."""


NO_CHAIN = (
    Edit(
        LogReader._candidate,
        "header.previous != last.position or header.previous_crc != last.crc or header.generation < last.generation",
        "header.position <= last.position",
    ),
)
NO_GENERATIONS = (
    Edit(resume_cache, "generation=superblock.generation + 1", "generation=superblock.generation"),
    Edit(LogReader._header_at, "if superblock.head <= position < superblock.generation_start or ", "if "),
    Edit(
        LogReader._header_at,
        "if (header.generation == superblock.generation) != (position >= superblock.generation_start):",
        "if False:",
    ),
)
NO_DATA_CHECKS = (
    Edit(LogReader._bad_lines, "(block + 1) * LINE\n", "(block + 1) * LINE\n    return ()\n"),
    Edit(ReadPath._nr_good, "!= crcs[index + at]", "!= crcs[index + at] and False"),
    Edit(ReadPath._fill, "!= crcs[at]", "!= crcs[at] and False"),
    Edit(ReadPath._fill, "crc32c(content) != crc:", "False:"),
    Edit(ReadPath._from_page_cache, "and crc32c(content) == self.states.crc[index]", "and True"),
)

BUGS: tuple[Bug, ...] = (
    Bug(
        "B01",
        "a record is accepted by its header alone, data are not compared with their CRCs",
        NO_DATA_CHECKS,
        Exploration(),
        ("Violation R1", "Violation R2", "Violation R3"),
    ),
    Bug(
        "B02",
        "a slot is free as soon as the tail has moved in memory",
        (Edit(Cache._commit_tail, "await self.commit()\n", "await trio.lowlevel.checkpoint()\n"),),
        Exploration(),
        ("Damaged", "Violation R1", "Violation R2"),
        "The chain tells that the tail's record is gone: recovery refuses, where 2013 migrated garbage.",
    ),
    Bug(
        "B03",
        "the generation does not change with a recovery, and neither it nor the chain is looked at",
        (*NO_GENERATIONS, *NO_CHAIN),
        Exploration(),
        ("Damaged", "Violation R1", "Violation R2", "Violation R3"),
        "Generation or chain alone keeps an abandoned timeline out, so both are taken away.",
    ),
    Bug(
        "B04",
        "the slots of migrated segments are discarded before the tail that gives them up is durable",
        (
            Edit(
                Cache._commit_tail,
                "await self.commit()\n",
                "for given_up in range(self.ring.tail, tail):\n"
                "        start = self.geometry.start_block(given_up) * LINE\n"
                "        await self.image.discard(start, self.geometry.segment_bytes)\n"
                "    await self.commit()\n",
            ),
        ),
        Exploration(),
        ("Damaged", "Violation R1", "Violation R2"),
        "lcfs discards nothing; this is the discard it would do, in the wrong place.",
    ),
    Bug(
        "B05",
        "the log ends at the first bad header, whatever says that more was durable",
        (Edit(LogReader._was_durable, "superblock, geometry = ", "return False\n    superblock, geometry = "),),
        RotFinder(),
        ("Violation R1", "Violation R3"),
    ),
    Bug(
        "B05 (resurrection)",
        "after a log was cut, whole records of the cut part count again",
        (*NO_CHAIN, *NO_GENERATIONS[1:]),
        Exploration(),
        ("Damaged", "Violation R1", "Violation R2", "Violation R3"),
    ),
    Bug(
        "B07",
        "the tail moves although the backing was not flushed",
        (Edit(Migrator._write_to, "await store.flush()\n", "pass\n"),),
        Exploration(),
        ("Violation R1", "Violation R2"),
    ),
    Bug(
        "B08",
        "two write-backs of a disk at a time: the older one may come last",
        (Edit(Migrator.write_back, "async with device.writeback:", "if True:"),),
        Exploration(steps=("write back with a lag", "drop_caches")),
        ("Violation R1", "Violation R2", "Violation R3", "Violation read"),
    ),
    Bug(
        "B09",
        "a line that is dirty in part is read from the backing alone",
        (
            Edit(ReadPath._fill_nowait, "_overlay(out, content, self.states.valid[index])", "pass"),
            Edit(ReadPath._fill, "_overlay(out, content, mask)", "pass"),
        ),
        Exploration(),
        ("Violation read", "Violation R1", "Violation R2"),
    ),
    Bug(
        "B10",
        "a read that was under way when its slot was taken by another line gives what it found there",
        (
            Edit(ReadPath._nr_good, "!= crcs[index + at]", "!= crcs[index + at] and False"),
            Edit(ReadPath._fill, "!= crcs[at]", "!= crcs[at] and False"),
        ),
        Exploration(steps=("read with a lag",)),
        ("Violation read",),
    ),
    Bug(
        "B11",
        "after a recovery both an old and a new version of a line are dirty",
        (Edit(replay, "states.dirty_array[old[old != 0]] = 0", "pass"),),
        Exploration(),
        ("Violation R10",),
    ),
    Bug(
        "B12",
        "a partial write leaves the line's older dirty sectors behind",
        (Edit(WritePath._put_sectors, "carried = states.dirty[index] & ~mask & FULL if index else 0", "carried = 0"),),
        Exploration(),
        ("Violation read", "Violation R1", "Violation R2", "Violation R3"),
        "2013 lost them in recovery only; here a line has one place, so they would be lost at once.",
    ),
    Bug(
        "B13",
        "a write buffer is given to the next segment while its records are still to be written",
        (
            Edit(Log._close_buffer, "if buffer.pending == 0:", "if True:"),
            Edit(Log._on_written, "if buffer.closed and buffer.pending == 0:", "if False:"),
        ),
        Exploration(),
        # the store itself may be the first to see a buffer change under its hands; a record that is never written
        # fills the ring
        ("Failed", "NoSpace", "AssertionError", "Violation R1", "Violation R2", "Violation R3", "Violation read"),
    ),
    Bug(
        "B17",
        "every barrier closes its segment",
        (Edit(Log.seal, "if end + 1 < self._limit:", "if False:"),),
        CostFinder(),
        ("Violation cost",),
    ),
    Bug(
        "B20",
        "a barrier returns although its flush failed",
        (
            Edit(
                Log.flush_image,
                'self.fail(f"{self.path} could not be flushed: {exc.strerror or exc}")\n            self.check()',
                "log.debug(exc)",
            ),
            Edit(
                Flusher._write,
                "except FlushFailed as exc:",
                "except FlushFailed as exc:\n            return True",
            ),
        ),
        Sweep("barrier: lost, EIO once"),
        ("Violation R1",),
    ),
    Bug(
        "B21",
        "a cache is freed while disks are attached to it",
        (Edit(Manager.free_cache, "if users:", "if False:"),),
        Exploration(steps=("write a line", "free a cache in use")),
        ("Violation R9", "Failed", "Violation state", "Cancelled"),
    ),
    Bug(
        "B22",
        "detach says that it was done before any image knows",
        (Edit(Manager._detach, "await self._decide(cache, attach_again)", "await trio.lowlevel.checkpoint()"),),
        Exploration(),
        ("Violation R9", "Violation R1", "Violation R2", "Violation R3", "Violation read"),
    ),
    Bug(
        "B22 (replay)",
        "lines from before a detach are replayed onto the disk that was written to directly since",
        (Edit(replay, "if device is None or header.position < since[number]:", "if device is None:"),),
        Exploration(steps=("write three lines", "detach", "write three lines", "attach", "barrier")),
        ("Violation R1", "Violation R2", "Violation R3", "Violation R10"),
    ),
    Bug(
        "B23",
        "a disk is known by its number only",
        (
            Edit(is_stale, "if label.uuid != entry.uuid:", "if False:"),
            Edit(is_stale, "if label.stamp not in (entry.stamp, entry.previous_stamp):", "if False:"),
        ),
        Exploration(steps=("swap the backings",)),
        ("Violation R7",),
    ),
    Bug(
        "B24",
        "dirty lines of a disk that is missing at mount are dropped",
        (Edit(replay, "if device is None or ", "if device is None or device.store is None or "),),
        Exploration(steps=("write three lines", "barrier", "mount without disk 1")),
        ("Violation R1", "Violation R2", "Violation R3", "Violation read"),
        "2013 stopped the kernel instead; dropping them is what an implementation does that only avoids the crash.",
    ),
    Bug(
        "B25",
        "the count of dirty lines begins at 0 after a recovery",
        (Edit(_count_dirty, "device.nr_dirty_caches = int(counts[device.id])", "device.nr_dirty_caches = 0"),),
        Exploration(),
        ("Violation R10",),
    ),
    Bug(
        "B28",
        "a detach that is called off detaches all the same",
        (
            Edit(
                Manager._detach,
                "await self._drain(device, cache)\n",
                "try:\n"
                "                await self._drain(device, cache)\n"
                "            except trio.Cancelled:\n"
                "                pass\n",
            ),
        ),
        Exploration(steps=("write a line", "detach, called off")),
        ("Violation R9", "Violation read", "Violation R1", "Violation R2", "Violation R3"),
    ),
    Bug(
        "B35",
        "something that changes a cached line goes to the backing only",
        (
            Edit(
                Device.write,
                "await self.cache.write(self, offset, part)",
                "await self._backing().write(offset, [part])",
            ),
        ),
        Exploration(),
        ("Violation read", "Violation R1", "Violation R2", "Violation R3", "Violation R10"),
        "Requests to discard do not reach a FUSE file, so this is done to writes.",
    ),
    Bug(
        "B44",
        "a clean line that cannot be read from the image is EIO, though the backing has it",
        (Edit(ReadPath._give_up_line, "if self.states.dirty[index]:", "if True:"),),
        RotFinder(),
        ("Failed",),
    ),
    # not of the list of 2013: what else a checker must be able to see
    Bug(
        "R3",
        "lines are migrated before their log is durable",
        (
            Edit(Migrator._batch, "await self._wait_durable(before)", "await trio.lowlevel.checkpoint()"),
            Edit(
                Cache.drain,
                "await self.barrier()\n    await self.migrator.drain(device, self.barriers.durable)",
                "await self.flusher.wait_written(self.seal())\n    await self.migrator.drain(device, self._sealed)",
            ),
            Edit(
                Cache._drop_caches,
                "await self.barrier()\n    self.close_segment()\n    await self.barrier()\n"
                "    position = self.barriers.durable",
                "self.close_segment()\n    await self.flusher.wait_written(self._sealed)\n    position = self._sealed",
            ),
        ),
        Exploration(),
        ("Violation R1", "Violation R2", "Violation R3"),
    ),
    Bug(
        "R6",
        "nobody wakes a writer who waits for room",
        (Edit(Log._open_room, "room.set()", "pass"),),
        Sweep("write more than the ring: EIO once"),
        ("Violation R6", "Violation liveness"),
    ),
    Bug(
        "R8",
        "a generation begins, and says how far the log was durable, without a flush",
        (Edit(Cache.begin, "await self.flush_image()", "await trio.lowlevel.checkpoint()"),),
        Exploration(steps=("write more than a segment", "kill")),
        ("Damaged", "Failed", "Violation R1", "Violation R2", "Violation R3"),
    ),
    Bug(
        "R9",
        "a disk is created in memory, and no image is told",
        (Edit(Manager._add, "await self._decide(cache, forget)", "await trio.lowlevel.checkpoint()"),),
        Exploration(),
        ("Violation R9", "Violation R1", "Violation R2"),
    ),
)

LISTED = (*range(1, 6), *range(7, 14), 17, *range(20, 26), 28, 35, 44)
"""Numbers of the defects of 2013 that must have a row."""

UNPLANTABLE: dict[str, str] = {}
"""Those that this design has no place for, and why. The notes above say where a bug had to be changed to fit."""

CHECKERS = {
    "R1": "B07",
    "R2": "B01",
    "R3": "R3",
    "R5": "B44",
    "R6": "R6",
    "R7": "B23",
    "R8": "R8",
    "R9": "R9",
    "R10": "B25",
}
"""For each promise, a bug that its checker finds: one that nothing can trip would be no checker."""
