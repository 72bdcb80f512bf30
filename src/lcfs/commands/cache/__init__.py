# SPDX-License-Identifier: GPL-2.0-or-later
"""`lcfs cache`: a cache image before it is mounted, and the caches of a mounted lcfs."""
