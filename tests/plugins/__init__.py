# SPDX-License-Identifier: GPL-2.0-or-later
"""What the whole test suite needs from pytest, one concern per module."""
