# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.kill`: many rounds over all kinds and cuts, a line each, and what it came to.

A case is a new cache and disk that go through some rounds. Its choices come from the seed that its lines show; moments are
the machine's. A case that fails ends there and its directory is kept: image and backing as the kill left them in
`crashed/`, the witnesses, the daemons' log.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest

from tests.kill.case import Outcome, Violation
from tests.kill.kinds import CUTS, KINDS, lacks, play
from tests.plugins.requirements import lacks_loop, lacks_mount

TROUBLE = (Violation, AssertionError, OSError, pytest.fail.Exception)


@attrs.define
class Sum:
    """What the rounds of a kind and cut came to."""

    rounds: int = 0
    commits: int = 0
    recovery_kills: int = 0
    failures: int = 0

    def add(self, outcome: Outcome) -> None:
        """A round that went well."""
        self.rounds += 1
        self.commits += outcome.commits
        self.recovery_kills += outcome.recovery_kills

    def __str__(self) -> str:
        return f"{self.rounds:6} {self.commits:9} {self.recovery_kills:14} {self.failures:8}"


def main() -> int:
    """0 when every round went well, 1 when one did not, 2 when some could not be run at all, 130 when called off."""
    options = parse()
    for lack in [lacks_mount(), lacks_loop(), *map(lacks, options.kinds)]:
        if lack is not None:
            print(f"make kill: {lack}", file=sys.stderr)
            return 2
    sums = {(kind, cut): Sum() for kind in options.kinds for cut in CUTS}
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # takes everything down, too
    called_off = False
    try:
        run(options, sums)
    except KeyboardInterrupt:
        called_off = True
    finally:
        print(f"\n{'kind':16} {'cut':6} {'rounds':>6} {'commits':>9} {'recovery kills':>14} {'failures':>8}")
        for (kind, cut), total in sums.items():
            print(f"{kind:16} {cut:6} {total}")
        everything = Sum(*map(sum, zip(*map(attrs.astuple, sums.values()), strict=True)))
        print(f"{'all':16} {'':6} {everything}   in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return 130 if called_off else 1 if everything.failures else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how many kills (default: 20)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="default: a new one")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument("--skip", type=int, default=0, metavar="CASES", help="leave out so many cases at the beginning")
    parser.add_argument("--rounds-per-case", type=int, default=5, help="kills that one cache goes through (default: 5)")
    parser.add_argument("--longest", type=float, default=2.5, help="seconds of work before a kill, at most (default: 2.5)")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"{unknown[0]!r} is no kind; choose from {','.join(KINDS)}")
    return options


def run(options: argparse.Namespace, sums: dict[tuple[str, str], Sum]) -> None:
    """Case after case, one of each kind and cut in turn, until the rounds are done."""
    done = 0
    for number, (kind, cut) in itertools.islice(enumerate(itertools.cycle(sums)), options.skip, None):
        rounds = min(options.rounds_per_case, options.rounds - done)
        if rounds <= 0:
            return
        total = sums[kind, cut]
        seed = f"{options.seed}/{number}"
        try:
            with contextlib.closing(case(kind, cut, seed, rounds, options.longest)) as outcomes:
                for outcome in outcomes:
                    done += 1
                    total.add(outcome)
                    killed = f", {outcome.recovery_kills} kills in recovery" if outcome.recovery_kills else ""
                    what = f"{outcome.commits} commits, killed after {outcome.after:.2f} s{killed}: all there"
                    print(f"{done}/{options.rounds} {kind} {cut} {seed}: {what}", flush=True)
        except TROUBLE as trouble:
            done += 1
            total.rounds += 1
            total.failures += 1
            print(f"{done}/{options.rounds} {kind} {cut} {seed}: FAILED: {trouble}", flush=True)


def case(kind: str, cut: str, seed: str, rounds: int, longest: float) -> Generator[Outcome, None, None]:
    """The rounds of one case. Its directory stays when one failed."""
    directory = Path(tempfile.mkdtemp(prefix="lcfs-kill-"))
    print(f"{kind} {cut} {seed}: in {directory}", flush=True)
    try:
        yield from play(directory, kind, cut, random.Random(seed), rounds=rounds, longest=longest)
    except TROUBLE:
        raise
    except BaseException:
        shutil.rmtree(directory)
        raise
    shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
