# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs top`: the caches and disks of a mount on a screen that follows them, with keys to act on them."""

from __future__ import annotations

import argparse
import os
import re
import select
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from lcfs.commands.arguments import add_mount_option
from lcfs.commands.failure import USAGE, CommandFailed
from lcfs.commands.mounts import ANSWER_PATIENCE, Mount, the_mount
from lcfs.commands.rounds import LONGEST, SHORTEST, rounds

if TYPE_CHECKING:
    from lcfs.commands.top_asker import Asker
    from lcfs.commands.top_drawing import Characters
    from lcfs.commands.top_keys import Terminal
    from lcfs.commands.top_session import Session

NAME = "top"
HELP = "show what the caches and disks are doing, on a screen that follows, with keys to act on them"

BLINK = 1.0
"""Seconds after which the screen is drawn again, for its clock."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options and positionals."""
    add_mount_option(parser)
    parser.add_argument("-d", "--delay", metavar="SECONDS", type=_delay, default=1.0, help="between two looks; 0.1 to 86400")
    parser.add_argument("-n", "--count", metavar="COUNT", type=_count, default=0, help="end after so many looks")
    parser.add_argument("-b", "--batch", action="store_true", help="print the looks below each other, as text")
    parser.add_argument("place", metavar="MNT", nargs="?", help="the same as -m MNT")


def run(options: argparse.Namespace) -> int:
    """Show it until q, COUNT looks, or the end of the mount."""
    if options.place is not None and options.mountpoint is not None:
        raise CommandFailed(f"{options.place} and -m {options.mountpoint} are two mount points; give one", USAGE)
    try:
        import rich  # noqa: F401
    except ImportError:
        raise CommandFailed(
            "rich is not installed, which lcfs top draws with; install it with: pip install 'lcfs[tui]'"
        ) from None
    mount = the_mount(options.place if options.place is not None else options.mountpoint)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if options.batch or not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        count = options.count or (0 if options.batch or is_terminal else 1)
        return _print(mount, options.delay, count)
    ended_by = _watch(mount, options.delay, options.count)
    if ended_by:
        os.kill(os.getpid(), ended_by)  # so that whoever waits for us sees what ended us
    return 0


def _delay(text: str) -> float:
    if re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", text, re.ASCII) and SHORTEST <= float(text) <= LONGEST:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 86400")


def _count(text: str) -> int:
    if re.fullmatch(r"\d{1,9}", text, re.ASCII) and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")


def _print(mount: Mount, interval: float, count: int) -> int:
    """Looks below each other, without escapes, for a pipe or a file."""
    from lcfs.commands.top_asker import Asker
    from lcfs.commands.top_screen import View, frame

    session = _session(interval)
    try:
        with Asker(mount) as looks:
            for number in rounds(interval, count):
                looks.ask()
                if not select.select([looks], [], [], ANSWER_PATIENCE)[0]:
                    raise CommandFailed(
                        f"{mount.mountpoint} has not answered for {ANSWER_PATIENCE:.0f} s: its daemon is stopped or hangs; "
                        "look at its log"
                    )
                _take(session, looks)
                view = View(mount.mountpoint, session.look, session.history, time.time(), interval)
                width = shutil.get_terminal_size().columns
                lines = [line.plain.rstrip() for line in frame(view, width, _characters())]
                text = "\n".join([*([""] if number else []), *lines]) + "\n"
                sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "replace"))
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return 0


def _watch(mount: Mount, interval: float, count: int) -> int:
    """Until q; the signal that ended it, or 0."""
    from lcfs.commands.top_asker import Asker
    from lcfs.commands.top_keys import Terminal

    session = _session(interval)
    with Asker(mount) as looks, Asker(mount) as stores:
        with Terminal(sys.stdin.fileno(), sys.stdout.fileno()) as terminal:
            ended_by = _Watch(session, terminal, looks, stores, mount.mountpoint).run(count)
        if session.under_way is not None:
            print(f"{mount.mountpoint}: {session.under_way} is still under way, and is not called off", file=sys.stderr)
    return ended_by


class _Watch:
    """The loop: what came is taken, what is due is asked, the screen is drawn; nothing here waits for the mount."""

    def __init__(self, session: Session, terminal: Terminal, looks: Asker, stores: Asker, mountpoint: str) -> None:
        from rich.console import Console

        self._session = session
        self._terminal = terminal
        self._looks = looks
        self._stores = stores
        self._mountpoint = mountpoint
        self._console = Console(force_terminal=True, legacy_windows=False, highlight=False)
        self._asked = 0.0
        self._due = time.monotonic()
        self._seen = 0

    def run(self, count: int) -> int:
        """Until q or `count` looks; the signal that ended it, or 0."""
        session = self._session
        while not session.is_over:
            now = time.monotonic()
            if not self._looks.is_busy and not session.paused and now >= self._due:
                self._looks.ask()
                self._asked = now
                self._due = max(self._due + session.interval, now)
            self._draw()
            rest = BLINK if self._looks.is_busy or session.paused else min(BLINK, max(0.0, self._due - time.monotonic()))
            events, answers = self._terminal.wait([self._looks, self._stores], rest)
            if ended_by := events.signals & {signal.SIGTERM, signal.SIGHUP}:
                return min(ended_by)
            if events.closed or signal.SIGINT in events.signals:
                break
            if signal.SIGTSTP in events.signals:
                self._terminal.stop()
            elif signal.SIGCONT in events.signals:
                self._terminal.resume()
            for asker in answers:
                _take(session, asker)
                if asker is self._looks:
                    self._seen += 1
                else:
                    self._due = time.monotonic()  # what has changed is to be seen
            for key in events.keys:
                self._key(key)
            if count and self._seen >= count:
                self._draw()
                break
        return 0

    def _key(self, key: str) -> None:
        if key == "redraw":
            self._terminal.resume()
            return
        interval = self._session.interval
        if store := self._session.key(key):
            self._stores.ask(store)
        if self._session.interval != interval:
            self._due = min(self._due, self._asked + self._session.interval)

    def _draw(self) -> None:
        from lcfs.commands.top_screen import View, screen

        session = self._session
        silent = time.monotonic() - self._asked if self._looks.is_busy else 0.0
        message = session.message or (f"{session.under_way} is under way" if session.under_way is not None else "")
        view = View(
            self._mountpoint,
            session.look,
            session.history,
            time.time(),
            session.interval,
            cache_id=session.cache_id,
            disk_id=session.disk_id,
            silent=silent,
            paused=session.paused,
            message=message,
            question=session.question,
            helping=session.helping,
        )
        width, height = self._terminal.size
        lines = []
        for line in screen(view, width, height, _characters()):
            line.truncate(width, overflow="crop", pad=True)
            with self._console.capture() as captured:
                self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
            lines.append(captured.get())
        self._terminal.draw(lines)


def _session(interval: float) -> Session:
    from lcfs.commands.top_session import Session

    return Session(interval)


def _take(session: Session, asker: Asker) -> None:
    """The answer. Raises CommandFailed where there is no going on."""
    from lcfs.commands.top_asker import Failed
    from lcfs.commands.top_model import Look

    answer = asker.answer()
    if isinstance(answer, Failed):
        raise CommandFailed(answer.sentence, answer.exit_code)
    if isinstance(answer, Look):
        session.seen(answer)
    else:
        session.answered(answer)


def _characters() -> Characters:
    from lcfs.commands.top_drawing import ASCII, UNICODE

    return UNICODE if sys.stdout.encoding.lower().replace("-", "") == "utf8" else ASCII
