# SPDX-License-Identifier: GPL-2.0-or-later
"""What detach and remove share: a drain that shows how far it is and that Ctrl-C calls off."""

from __future__ import annotations

import contextlib
from errno import ECANCELED

from lcfs.commands.control import MessageRefused, Tree
from lcfs.commands.failure import INTERRUPTED, CommandFailed
from lcfs.commands.pace import Pace
from lcfs.commands.progress import run_interruptible


def drain(tree: Tree, verb: str, id_: int, *, late: bool = False) -> None:
    """Send `verb` for disk `id_` and wait for it. Raises CommandFailed; with INTERRUPTED when it was called off.

    `late` as for `run_interruptible`.
    """
    pace = Pace()

    def progress() -> str:
        try:
            dirty = int(tree.read("block", id_, "nr_dirty_caches"))
        except (CommandFailed, ValueError):
            return ""  # gone: the answer is on its way
        return f"disk {id_}: {dirty} dirty lines to write to its backing{pace(dirty)}; Ctrl-C leaves it attached"

    def cancel() -> None:
        with contextlib.suppress(CommandFailed):
            tree.send("cancel", id_)

    try:
        run_interruptible(lambda: tree.send(verb, id_), progress=progress, cancel=cancel, late=late)
    except MessageRefused as error:
        if error.errno == ECANCELED:
            raise CommandFailed(f"disk {id_} stays attached", INTERRUPTED) from None
        raise
