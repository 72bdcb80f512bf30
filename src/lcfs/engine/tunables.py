# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunables of a cache and of a disk: names and meaning of 2013, ranges of lcfs (B16, B39)."""

from __future__ import annotations

import re

import attrs

from lcfs.engine.errors import Invalid, OutOfRange


@attrs.frozen
class Tunable:
    """A number with a default and an inclusive range."""

    name: str
    default: int
    low: int
    high: int

    def check(self, value: int) -> int:
        """`value` if it is in the range; raises Invalid with the condition violated."""
        if not self.low <= value <= self.high:
            raise Invalid(f"{self.name} takes {self.low} to {self.high}, not {value}")
        return value


TUNABLES: dict[str, Tunable] = {
    row.name: row
    for row in (
        Tunable("allow_migrate", 0, 0, 1),
        Tunable("force_migrate", 0, 0, 1),
        Tunable("nr_max_batched_migration", 32, 1, 256),
        Tunable("barrier_deadline_ms", 3, 1, 1000),
        Tunable("flush_current_buffer_interval", 0, 0, 3600),
        Tunable("commit_super_block_interval", 0, 0, 3600),
        Tunable("update_interval", 1, 0, 3600),
    )
}
"""The cache's, in the order in which the superblock stores them."""

MIGRATE_THRESHOLD = Tunable("migrate_threshold", 70, 0, 100)
"""The disk's: percent of load above which migration rests."""

_UNSIGNED = re.compile(r"\+?([0-9]+)\n?", re.ASCII)


def parse_unsigned(text: str) -> int:
    """What kstrtoul base 10 takes: an optional `+`, digits, an optional trailing newline.

    Raises Invalid for anything else, OutOfRange for more than 64 bits.
    """
    match = _UNSIGNED.fullmatch(text)
    if match is None:
        raise Invalid(f"{text[:80]!r} is not an unsigned decimal number")
    digits = match[1].lstrip("0")
    if len(digits) > 20 or int(digits or "0") >= 1 << 64:
        raise OutOfRange(f"{text.strip()[:80]} does not fit 64 bits")
    return int(digits or "0")


def defaults() -> dict[str, int]:
    """A fresh set of the cache's tunables."""
    return {name: row.default for name, row in TUNABLES.items()}
