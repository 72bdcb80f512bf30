# SPDX-License-Identifier: GPL-2.0-or-later
"""lcfs: virtual disks as files, behind a log-structured write-back cache on a fast device."""

__version__ = "0.1.0"
