# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture `lcfs` of the mount tests, in whose directory the pages are run."""

from tests.mount.conftest import lcfs as lcfs
