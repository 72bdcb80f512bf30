# SPDX-License-Identifier: GPL-2.0-or-later
"""What a daemon in the foreground tells systemd: sd_notify(3), the watchdog, and its own account of how it goes.

Without NOTIFY_SOCKET in the environment nothing is sent, so nobody has to ask whether there is a service manager.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping

import trio

from lcfs.commands.background import Reporter

PATIENCE = 60
"""Seconds more that a start or stop asks for whenever it has got further."""

INTERVAL = 10.0
"""Seconds between two status texts; less where the watchdog wants to hear from us more often."""


class Notifier:
    """The service manager, if there is one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        usec = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if self._address and meant and usec.isdecimal() else None
        """Seconds within which each sign of life must follow the last; None: nobody watches."""

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, *assignments: str) -> None:
        """Send `NAME=value` lines in one datagram. A manager that does not listen changes nothing for us."""
        if not self._address:
            return
        text = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(text.encode(errors="replace"), self._address)

    def more_time(self, status: str) -> None:
        """The start or stop has got further and is not to be cut off for PATIENCE seconds."""
        self.tell(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={PATIENCE * 1_000_000}")


class ServiceReporter:
    """The reporter of a daemon that systemd started: what goes to the log goes to `systemctl status` as well."""

    def __init__(self, reporter: Reporter, notifier: Notifier) -> None:
        self._reporter = reporter
        self._notifier = notifier

    def note(self, text: str) -> None:
        """Log it."""
        self._reporter.note(text)

    def progress(self, text: str) -> None:
        """Ask for time: recovery goes on."""
        self._notifier.more_time(text)

    def mounted(self) -> None:
        """The unit is up."""
        self._reporter.mounted()
        self._notifier.tell("READY=1", "STATUS=mounted")

    def failed(self, sentence: str, exit_code: int) -> None:
        """The last status text is the reason."""
        self._notifier.tell(f"STATUS={sentence}")
        self._reporter.failed(sentence, exit_code)


async def watch(notifier: Notifier, mountpoint: str, status: Callable[[], str]) -> None:
    """Tell the status, and that the tree answers through the kernel, until cancelled.

    statvfs(3) needs no backing and no image, so one of those that hangs does not get the daemon killed.
    """
    interval = INTERVAL if notifier.watchdog is None else min(INTERVAL, notifier.watchdog / 3)
    while True:
        answers = True
        try:
            await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
        except OSError:
            answers = False  # unmounted just now, or no longer ours: not the moment to say that all is well
        notifier.tell(f"STATUS={status()}", *(["WATCHDOG=1"] if answers and notifier.watchdog is not None else []))
        await trio.sleep(interval)


async def keep_asking(notifier: Notifier, status: str) -> None:
    """Ask for more time until cancelled. The engine itself ends a stop that makes no progress."""
    while True:
        notifier.more_time(status)
        if notifier.watchdog is not None:
            notifier.tell("WATCHDOG=1")
        await trio.sleep(min(PATIENCE, notifier.watchdog or PATIENCE) / 3)
