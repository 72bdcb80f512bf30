# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture `lcfs` of the mount tests, for verbs that need a mounted tree."""

from tests.mount.conftest import lcfs as lcfs
