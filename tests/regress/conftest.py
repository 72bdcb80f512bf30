# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture `lcfs` of the mount tests, for bugs of the tree and the tools."""

from tests.mount.conftest import lcfs as lcfs
