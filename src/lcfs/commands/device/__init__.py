# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs device`: the virtual disks of a mounted lcfs."""
