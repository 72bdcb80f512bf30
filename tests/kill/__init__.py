# SPDX-License-Identifier: GPL-2.0-or-later
"""The real thing: file systems and databases on a loop device over lcfs, whose daemon is killed in the middle.

A round: work, SIGKILL at a random moment, `lcfs mount` again, bind the loop device again, fsck, and everything that
was acknowledged is compared with a witness that was kept outside the mount. `python -m tests.kill` runs many.
"""
