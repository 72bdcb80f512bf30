# SPDX-License-Identifier: GPL-2.0-or-later
"""lcfs beside what a user would pick instead: `make bench` (see README.md here)."""
