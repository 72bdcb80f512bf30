# SPDX-License-Identifier: GPL-2.0-or-later
"""One cache, two disks, a workload on each, taken through any number of kills."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import attrs

from tests.kill.workload import Workload
from tests.kill.writers import BareDisk
from tests.mount.harness import Lcfs, wait_until

TOP = Path(__file__).parent.parent.parent

IMAGE = "ssd.img"
BACKING = "disk.img"
BARE = "bare.img"
LEAST_COMMITS = 5
"""So many are witnessed before the clock of the kill starts."""
FIRST_COMMITS_PATIENCE = 60.0
"""Seconds for them."""
COMPLAINT = re.compile(r" (WARNING|ERROR|CRITICAL) (?!.*the superblock that is left is older than the log)")
"""A line of a daemon's log that no crash excuses; a superblock copy that was being written may well be torn."""
RECOVERY_KILLS = (0, 0, 1, 2)
"""How often the mount after a kill is itself killed: one of these."""


class Violation(Exception):
    """Something acknowledged is gone, or something is there that nobody wrote, or nothing goes on any more."""


class DaemonUnderTest(Lcfs):
    """`Lcfs` whose mounts run on files that forget: `memory` as tests.kill.forgetful_lcfs takes it; None: on plain files."""

    def __init__(self, directory: Path, memory: str | None) -> None:
        super().__init__(directory)
        self.memory = memory

    def command(self, *arguments: str | Path) -> list[str]:
        if self.memory is None or arguments[0] != "mount":
            return super().command(*arguments)
        return [sys.executable, "-m", "tests.kill.forgetful_lcfs", self.memory, *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        ours = super().environment()
        return ours | {"PYTHONPATH": f"{ours['PYTHONPATH']}:{TOP}"}


@attrs.frozen
class Outcome:
    """What a round came to."""

    commits: int
    """Witnessed before the kill, those of the bare disk included."""
    after: float
    """Seconds from the first of them to the kill."""
    recovery_kills: int


class Case:
    """`workload` on disk 1, and beside it bursts of writes on disk 2, which has no file system.

    Choices are drawn from `rng`; moments are what they are.
    """

    def __init__(self, lcfs: DaemonUnderTest, workload: Workload, rng: random.Random) -> None:
        self.lcfs = lcfs
        self.workload = workload
        self.bare = BareDisk(workload.aside)
        self._fs = lcfs.directory / "fs"
        self._disk, self._bare_disk = (lcfs.directory / "mnt/devices" / number for number in "12")
        self._rng = rng
        self._cache_size = rng.choice(workload.cache_sizes)
        self._device = ""

    def set_up(self) -> None:
        """A new cache and disk, a new file system, the workload's first state: all of it durable."""
        self._mount()
        self._bind()
        self.lcfs.mkfs(self._device, self.workload.file_system)
        self.bare.prepare(self._bare_disk)
        self._mount_fs()
        self.workload.prepare(self._fs)
        self.lcfs.umount_fs()
        self._mount_fs()

    def round(self, longest: float) -> Outcome:
        """Work, kill within `longest` seconds, come back, verify. Raises Violation."""
        self._tune()
        self.workload.start(self._fs, self._rng)
        self.bare.start(self._bare_disk, self._rng)
        self._wait_for_commits()
        after = self._rng.uniform(0, longest)
        time.sleep(after)
        wrong = self._ended()
        commits = self.workload.nr_acknowledged() + self.bare.nr_acknowledged()
        killed_at = time.monotonic_ns()
        self.lcfs.kill9()
        wrong += self.workload.end(killed_at) + self.bare.end(killed_at)
        self._leave_the_dead()
        self._keep_copies()
        require(wrong)
        kills = self._rng.choice(RECOVERY_KILLS)
        for _ in range(kills):
            self._mount_and_kill()
        self._mount()
        self._bind()
        self._verify(self._bare_disk)
        require(self._complaints())
        return Outcome(commits, after, kills)

    def rest(self) -> None:
        """Between two rounds: nothing, a drop of the cache, a clean stop, or one in whose middle the daemon is killed."""
        what = self._rng.choice(("nothing", "nothing", "drop", "stop", "kill the stop"))
        if what == "nothing":
            return
        if what == "drop":
            self.lcfs.store("caches/1/drop_caches", 1)
            return
        self._stop(kill=what == "kill the stop")
        self._mount()
        self._bind()
        self._verify(self._bare_disk)

    def finish(self) -> None:
        """Everything written back and stopped: the backing by itself holds what was witnessed. Raises Violation."""
        self.lcfs.store("caches/1/drop_caches", 1)
        self._stop(kill=False)
        require(self._check_image(self.lcfs.directory / IMAGE))
        self._device = self.lcfs.losetup(BACKING)
        self._verify(self.lcfs.directory / BARE)
        self.workload.release()
        self.lcfs.umount_fs()
        self.lcfs.detach_loop(self._device)

    def abandon(self) -> None:
        """Nothing of the workloads runs any more, in whatever state things are."""
        self.bare.abandon()
        self.workload.abandon()

    # Up

    def _mount(self) -> None:
        self.lcfs.mount(*self._options())
        self._states()

    def _options(self) -> list[str]:
        """Those of every mount: the first creates what the others find."""
        disks = ["--device", f"1={BACKING},size={self.workload.disk_size}", "--device", f"2={BARE},size=4M"]
        return ["--cache", IMAGE, "--cache-size", self._cache_size, *disks]

    def _states(self) -> None:
        for name in ("caches/1/state", "block/1/state", "block/2/state"):
            if (state := self.lcfs.read(name)) != "running":
                raise Violation(f"{name} is {state}")

    def _mount_and_kill(self) -> None:
        """A kill in the middle of start and recovery, or just behind it."""
        child = self.lcfs.start("mount", self.lcfs.directory / "mnt", *self._options(), "-f", "--log", self.lcfs.log_file())
        time.sleep(self._rng.uniform(0.2, 1.2))
        ended = child.poll() is not None
        child.kill()
        _, said = child.communicate()
        if ended:
            raise Violation(f"the mount after the kill failed: {said}")

    def _bind(self) -> None:
        self._device = self.lcfs.losetup(self._disk, direct_io=self._rng.random() < 0.7)

    def _mount_fs(self) -> None:
        self.lcfs.mount_fs(self._device)

    def _verify(self, bare_disk: Path) -> None:
        """The bare disk at that path, and what is on the loop device, which is mounted when this returns."""
        require(self.bare.verify(bare_disk))
        self._mount_fs()  # the kernel replays the journal; then there is nothing left for fsck
        self.lcfs.umount_fs()
        self.lcfs.fsck(self._device, self.workload.file_system)
        self._mount_fs()
        require(self.workload.verify(self._fs))

    def _ended(self) -> list[str]:
        return self.workload.ended() + self.bare.ended()

    def _tune(self) -> None:
        """Migration that runs all the time or not at all, in small and large batches, barriers that wait or do not."""
        self.lcfs.store("caches/1/force_migrate", self._rng.choice((0, 1)))
        self.lcfs.store("caches/1/nr_max_batched_migration", self._rng.choice((1, 4, 32)))
        self.lcfs.store("caches/1/barrier_deadline_ms", self._rng.choice((1, 3, 20)))

    def _wait_for_commits(self) -> None:
        deadline = time.monotonic() + FIRST_COMMITS_PATIENCE
        while min(self.workload.nr_acknowledged(), self.bare.nr_acknowledged()) < LEAST_COMMITS:
            require(self._ended())
            if time.monotonic() > deadline:
                raise Violation(f"less than {LEAST_COMMITS} commits in {FIRST_COMMITS_PATIENCE:.0f} s")
            time.sleep(0.01)

    # Down

    def _leave_the_dead(self) -> None:
        """The file system and the loop device of a dead disk come off; the dead mount is the next mount's affair."""
        wait_until(lambda: self.lcfs.shell("umount", "fs", check=False).returncode == 0, "the dead file system to come off")
        self.lcfs.detach_loop(self._device)

    def _stop(self, *, kill: bool) -> None:
        self.workload.release()
        self.lcfs.umount_fs()
        self.lcfs.detach_loop(self._device)
        if not kill:
            self.lcfs.umount()
            return
        pid = self.lcfs.pid()
        stop = self.lcfs.start("umount", self.lcfs.directory / "mnt")
        time.sleep(self._rng.uniform(0.05, 0.5))
        with contextlib.suppress(ProcessLookupError):  # the stop was faster
            os.kill(pid, signal.SIGKILL)
        stop.communicate()

    def _keep_copies(self) -> None:
        """Image and backing as the kill left them, for whoever has to find out what went wrong."""
        crashed = self.lcfs.directory / "crashed"
        crashed.mkdir(exist_ok=True)
        self.lcfs.shell("cp", "--sparse=always", "--reflink=auto", IMAGE, BACKING, BARE, crashed)
        require(self._check_image(crashed / IMAGE))

    def _check_image(self, image: Path) -> list[str]:
        done = self.lcfs.run("check", image, check=False)
        return [] if done.returncode == 0 else [f"lcfs check: exit code {done.returncode}: {done.stdout}{done.stderr}"]

    def _complaints(self) -> list[str]:
        """What the daemons logged and should not have."""
        return [line for line in self.lcfs.log().splitlines() if COMPLAINT.search(line)]


def require(wrong: list[str]) -> None:
    """Raise Violation for what is wrong."""
    if wrong:
        raise Violation("\n".join(wrong[:20]) + (f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""))
