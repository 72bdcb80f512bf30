# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel knows of this process, by the names that Prometheus' own clients give it."""

from __future__ import annotations

import functools
import os
import time


def cpu_seconds() -> float:
    """Processor time of all its threads, user and system."""
    return time.process_time()


def resident_bytes() -> int:
    """Its memory that is in RAM."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def start_time() -> float:
    """Seconds since 1970. Looked up once: what it is reckoned from, the time of day, may be set meanwhile."""
    with open("/proc/self/stat", "rb") as stat:
        # field 22, the 20th behind the name, which may hold anything
        ticks = int(stat.read().rpartition(b")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age, 2)
