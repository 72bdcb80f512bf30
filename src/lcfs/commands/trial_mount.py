# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking the kernel and fusermount3 whether they would mount, before an image is opened or a file created."""

from __future__ import annotations

import os
import tempfile

import pyfuse3

from lcfs.commands.failure import MOUNT_FAILED, CommandFailed


def require_mountable(mountpoint: str, options: set[str]) -> None:
    """Mount nothing for a moment, with these options. Raises CommandFailed with what libfuse says.

    Not on `mountpoint` itself: whoever waits for a mount there would take this one for it. libfuse and fusermount3
    give their reasons on file descriptor 2 only.
    """
    if not os.access(mountpoint, os.W_OK):
        raise CommandFailed(f"{mountpoint} cannot be mounted: this user may not write to it; chown it", MOUNT_FAILED)
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as reasons, tempfile.TemporaryDirectory(prefix="lcfs-trial-") as elsewhere:
        os.dup2(reasons.fileno(), 2)
        try:
            pyfuse3.init(pyfuse3.Operations(), elsewhere, options)
            pyfuse3.close()
        except RuntimeError:
            reasons.seek(0)
            reason = reasons.read().decode(errors="replace").strip().replace("\n", "; ") or "libfuse gave no reason"
            raise CommandFailed(f"{mountpoint} cannot be mounted: {reason}", MOUNT_FAILED) from None
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
