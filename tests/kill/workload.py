# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs on a file system over lcfs while the daemon is killed."""

from __future__ import annotations

import abc
import random
from pathlib import Path

PATIENCE = 60.0
"""Seconds until something on a dead disk is taken to hang."""


class Workload(abc.ABC):
    """Writers, and what is expected of what they wrote.

    `fs` is where the file system is mounted; `aside` a directory outside the mount, for witnesses. A list of sentences
    says what is wrong; empty is well.
    """

    file_system = "ext4"
    disk_size = "128M"
    cache_sizes: tuple[str, ...] = ("4M", "16M", "64M")

    def __init__(self, aside: Path) -> None:
        self.aside = aside

    @abc.abstractmethod
    def prepare(self, fs: Path) -> None:
        """The state before the first operation; the file system is unmounted and mounted again after it."""

    @abc.abstractmethod
    def start(self, fs: Path, rng: random.Random) -> None:
        """Let the writers write."""

    @abc.abstractmethod
    def nr_acknowledged(self) -> int:
        """Commits witnessed since `start`."""

    @abc.abstractmethod
    def ended(self) -> list[str]:
        """Which writers have ended, and what they said; as long as the daemon lives that is wrong."""

    @abc.abstractmethod
    def end(self, killed_at: int) -> list[str]:
        """The disk is dead: let the writers find out, and hear the witnesses. Nothing runs any more afterwards.

        `killed_at` is in nanoseconds of the monotonic clock.
        """

    @abc.abstractmethod
    def verify(self, fs: Path) -> list[str]:
        """Compare what is there now with what was witnessed."""

    def release(self) -> None:
        """Stop what `verify` left running for the next `start`, cleanly."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """Stop whatever runs, in whatever state things are."""
