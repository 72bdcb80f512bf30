# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads what every test is held to; docs/testing.md describes it."""

import os

from hypothesis import settings

from tests.plugins.machine import in_ci

pytest_plugins = [
    "pytester",
    "tests.plugins.requirements",
    "tests.plugins.log_check",
    "tests.plugins.leftovers",
    "tests.plugins.said",
]

# An example may take long on a busy machine, and a red CI must be red again when it is run again.
settings.register_profile("lcfs", deadline=None, derandomize=in_ci(), print_blob=True)
settings.register_profile("thorough", settings.get_profile("lcfs"), max_examples=2000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lcfs"))
