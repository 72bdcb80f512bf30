# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: measure every figure, write the report, say how the targets fared.

Exit code 0 when everything that is installed could be measured, whatever the numbers; 1 when something failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Collection
from pathlib import Path

from benchmarks import contestants, figures, report
from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.figure import Figure
from benchmarks.machine import absent

HERE = Path(__file__).parent


def main(words: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description="lcfs beside what a user would pick instead")
    parser.add_argument("--quick", action="store_true", help="see that everything works; numbers mean nothing")
    parser.add_argument("--figures", default="", metavar="NAME,…", help=f"only these of {', '.join(figures.ALL)}")
    parser.add_argument("--contestants", default="", metavar="NAME,…", help="only these")
    parser.add_argument("--rounds", type=int, default=0, help="instead of the usual number")
    parser.add_argument("--directory", default="/var/tmp", help="the file system to measure on (default: %(default)s)")
    options = parser.parse_args(words)
    wanted = _names(options.figures, figures.ALL, parser)
    only = _names(options.contestants, [contestant.name for contestant in contestants.ALL], parser)
    reason = absent("fio") or ("not root, and loop devices need it" if os.getuid() else "")
    if reason:
        print(f"make bench: {reason}", file=sys.stderr)
        return 1
    # leaving the blocks takes everything down; a second Ctrl-C would not
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    scale = QUICK if options.quick else FULL
    if options.rounds:
        scale = scale.with_rounds(options.rounds)
    directory = Path(tempfile.mkdtemp(prefix="lcfs-bench-", dir=options.directory))
    bench = Bench(scale, directory, only)
    done: dict[str, Figure] = {}
    failed: list[str] = []
    try:
        for name, measure in figures.ALL.items():
            if wanted and name not in wanted:
                continue
            bench.say(name)
            try:
                done.update({figure.name: figure for figure in measure(bench)})
            except Exception:
                traceback.print_exc()
                failed.append(name)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        whole = not (options.quick or wanted or only or options.rounds)
        results = HERE / "results" if whole and not failed else HERE.parent / "build" / f"bench-{scale.name}"
        report.write(bench, done, results)
    print("\n".join(report.targets_table(done)))
    for figure in done.values():
        for name, why in figure.absent.items():
            print(f"absent from {figure.name}: {name}: {why}", file=sys.stderr)
    bench.say(f"report: {results}/results.md")
    if failed:
        print(f"make bench: failed: {', '.join(failed)}; see the tracebacks above", file=sys.stderr)
        return 1
    return 0


def _names(text: str, known: Collection[str], parser: argparse.ArgumentParser) -> frozenset[str]:
    names = frozenset(filter(None, text.split(",")))
    unknown = names - frozenset(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
