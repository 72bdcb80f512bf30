# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs, and what happens around each of them: parse, run, one sentence and an exit code on failure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol

from lcfs import __version__
from lcfs.commands import cache, check, device, dump, iostat, mount, mount_helper, status, top, umount
from lcfs.commands.arguments import Parser
from lcfs.commands.cache import drain, drop, format, free, move, scrub, stats
from lcfs.commands.cache import resume as resume_cache
from lcfs.commands.device import attach, bind, create, detach, grow, remove, rename, suspend
from lcfs.commands.device import resume as resume_device
from lcfs.commands.failure import INTERRUPTED, CommandFailed


class Verb(Protocol):
    """What the module of a verb holds."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and positionals."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it; the exit code."""


VERBS: tuple[Verb, ...] = (mount, umount, status, iostat, top, check, dump)
CACHE_VERBS: tuple[Verb, ...] = (format, resume_cache, free, move, drop, drain, scrub, stats)
DEVICE_VERBS: tuple[Verb, ...] = (create, attach, detach, remove, grow, rename, suspend, resume_device, bind)


def build_parser() -> Parser:
    """The whole grammar."""
    parser = Parser(prog="lcfs", description="virtual disks as files, behind a log-structured write-back cache")
    parser.add_argument("--version", action="version", version=f"lcfs {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add(verbs, VERBS)
    for name, verbs_of, about in (("cache", CACHE_VERBS, cache.__doc__), ("device", DEVICE_VERBS, device.__doc__)):
        summary = (about or "").partition(": ")[2].rstrip(".")
        group = verbs.add_parser(name, help=summary, description=summary)
        _add(group.add_subparsers(metavar="VERB", required=True), verbs_of)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `lcfs`; the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    verbs = {verb.NAME for verb in VERBS} | {"cache", "device"}
    if words and words[0] not in verbs and mount_helper.looks_like(words):
        return mount_helper.main(words)
    options = build_parser().parse_args(words)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except CommandFailed as failure:
        print(f"{options.prog}: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        return 1


def _add(group: argparse._SubParsersAction[Parser], verbs: Iterable[Verb]) -> None:
    for verb in verbs:
        parser = group.add_parser(verb.NAME, help=verb.HELP, description=verb.HELP)
        verb.add_arguments(parser)
        parser.set_defaults(run=verb.run, prog=parser.prog)
