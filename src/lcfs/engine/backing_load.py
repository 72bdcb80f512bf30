# SPDX-License-Identifier: GPL-2.0-or-later
"""What lcfs asks of a backing: for how long requests were in flight, and how long small reads took.

Where the kernel counts the busy time of the device (io_ticks), this tells how much of it is migration's own. Where nobody
counts (a file on NFS or FUSE) it is all there is to go by. No I/O; two clock reads for each request that waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

SMALL = 64 << 10
"""Bytes up to which a read says something of the latency, rather than of the bandwidth."""
QUIET_DRIFT = 1.02
"""By how much the quiet level rises with each sample that is above it: what was quiet once need not be for ever."""


class Occupied:
    """A clock that runs while at least one is inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._since = self._before = 0.0

    def __enter__(self) -> None:
        if not self._inside:
            self._since = trio.current_time()
        self._inside += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self._before += trio.current_time() - self._since

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + (trio.current_time() - self._since if self._inside else 0.0)


class BackingLoad:
    """Of one backing."""

    def __init__(self) -> None:
        self.requests = Occupied()
        """Anything of ours in flight."""
        self.migration = Occupied()
        """Lines being written back."""
        self.nr_reads = 0
        """Reads that had to wait."""
        self.nr_bytes_read = 0
        """Bytes that they asked for."""
        self.percent = 0.0
        """Of the time between the last two samples that the backing was at work, as the modulator found."""
        self._quiet = float("inf")
        self._latencies = 0.0
        self._reads = 0

    @contextmanager
    def reading(self, length: int) -> Iterator[None]:
        """Around a read of so many bytes that waits for the backing."""
        self.nr_reads += 1
        self.nr_bytes_read += length
        began = trio.current_time()
        with self.requests:
            yield
        if length <= SMALL:
            self._latencies += trio.current_time() - began
            self._reads += 1

    def slowness(self) -> float:
        """0 to 1: how much of the latency of small reads since the last call is above its quiet level."""
        if not self._reads:
            return 0.0
        latency = self._latencies / self._reads
        self._latencies, self._reads = 0.0, 0
        self._quiet = min(self._quiet * QUIET_DRIFT, latency)
        return 1.0 - self._quiet / latency if latency > 0 else 0.0
