# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a daemon's log goes: a file when asked, else stderr in the foreground and syslog in the background."""

from __future__ import annotations

import logging
import logging.handlers
import os
from io import TextIOWrapper

from lcfs.commands.background import Reporter
from lcfs.commands.mount_plan import MountPlan

SYSLOG = "/dev/log"


class ReporterHandler(logging.Handler):
    """Log lines as notes, so that they and a live line do not overwrite each other."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self._reporter.note(self.format(record))


class LogFile(logging.FileHandler):
    """A log file that is not created through a link."""

    def _open(self) -> TextIOWrapper:
        """As the base class, but what is missing is made at this very place."""
        file = open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=create_here)
        assert isinstance(file, TextIOWrapper)
        return file


def create_here(path: str, flags: int) -> int:
    """An opener: an existing file is opened, a missing one created, where a link to nowhere is EEXIST."""
    try:
        return os.open(path, flags & ~os.O_CREAT)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)


class JournalFormatter(logging.Formatter):
    """sd-daemon(3): the priority in front of each line, `<3>` to `<7>`."""

    def format(self, record: logging.LogRecord) -> str:
        """With the syslog number of the record's level."""
        priority = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6}.get(record.levelname, 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def configure(plan: MountPlan, reporter: Reporter) -> None:
    """Set the loggers of this process up. A log file is made by its first line: a refused mount has none."""
    handler: logging.Handler
    if plan.log_file is not None:
        handler = LogFile(plan.log_file, encoding="utf-8", errors="surrogateescape", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    elif not plan.background:
        handler = ReporterHandler(reporter)
        handler.setFormatter(JournalFormatter() if plan.service else logging.Formatter("%(levelname)s: %(message)s"))
    elif os.path.exists(SYSLOG):
        handler = logging.handlers.SysLogHandler(SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"lcfs[{os.getpid()}]: %(message)s"))
    else:
        handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if plan.debug else logging.INFO)
