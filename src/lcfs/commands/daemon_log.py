# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a daemon's log goes: a file when asked, else stderr in the foreground and syslog in the background."""

from __future__ import annotations

import logging
import logging.handlers
import os

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


def configure(plan: MountPlan, reporter: Reporter) -> None:
    """Set the loggers of this process up. A log file is made by its first line: a refused mount has none."""
    handler: logging.Handler
    if plan.log_file is not None:
        handler = logging.FileHandler(plan.log_file, encoding="utf-8", errors="surrogateescape", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    elif not plan.background:
        handler = ReporterHandler(reporter)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    elif os.path.exists(SYSLOG):
        handler = logging.handlers.SysLogHandler(SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"lcfs[{os.getpid()}]: %(message)s"))
    else:
        handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if plan.debug else logging.INFO)
