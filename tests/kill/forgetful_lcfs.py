# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.kill.forgetful_lcfs MEMORY mount ...`: lcfs on files that lose what was not synced.

MEMORY says what a file keeps of unsynced writes when the daemon is killed:

    none        nothing
    some:SEED   what chance wants, torn at 512 bytes
    lying       nothing, and from the moment a file "lie" lies beside them not what was synced either: disks that say
                "durable" of what is not, to see that this is found out
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lcfs.commands import background, mount
from lcfs.commands.command_line import build_parser
from lcfs.commands.daemon import serve
from lcfs.commands.failure import CommandFailed
from lcfs.engine import BlockStore, FileStorage
from lcfs.testing import ForgetfulStore, LayeredStorage, UnsyncedWrite, keep_random, lose_all
from lcfs.testing.unsynced import Choose, Survival


class LyingStore(ForgetfulStore):
    """Its flush does nothing from the moment it is to lie."""

    async def flush(self) -> None:
        if not Path(self.name).with_name("lie").exists():
            await super().flush()


def sometimes(choose: Choose, rng: random.Random) -> Choose:
    """`choose` for a share of the calls that is drawn once, else nothing: an idle disk writes back much, a busy one little."""
    share = rng.choice((0.1, 0.5, 1.0))

    def chosen(writes: Sequence[UnsyncedWrite]) -> Survival:
        return choose(writes) if rng.random() < share else lose_all(writes)

    return chosen


def storage(memory: str) -> LayeredStorage:
    """The file system, under stores with that memory; each store draws its own chances."""
    kind, _, seed = memory.partition(":")

    def wrap(path: str, store: BlockStore) -> BlockStore:
        if kind == "lying":
            return LyingStore(store)
        if kind == "none":
            return ForgetfulStore(store)
        rng = random.Random(f"{seed} {path}")
        return ForgetfulStore(store, sometimes(keep_random(rng), rng))

    return LayeredStorage(FileStorage(), wrap)


def main() -> int:
    """The exit code, as `lcfs mount` would give it."""
    memory, *words = sys.argv[1:]
    options = build_parser().parse_args(words)
    try:
        plan = mount.plan_of(options)
    except CommandFailed as failure:
        print(f"{options.prog}: {failure}", file=sys.stderr)
        return failure.exit_code
    daemon = partial(serve, plan, storage=storage(memory))
    return background.start(daemon, plan.mountpoint) if plan.background else daemon(background.Terminal())


if __name__ == "__main__":
    sys.exit(main())
