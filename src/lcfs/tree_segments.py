# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of `caches/<id>/segments`."""

from __future__ import annotations

from lcfs.engine import Cache


def segments_text(cache: Cache) -> str:
    """Where the log begins, is on the image, and ends, as segment ids; then a line for each run of slots."""
    head = {
        "nr_segments": cache.nr_segments,
        "tail": cache.last_migrated_segment_id + 1,
        "flushed": cache.last_flushed_segment_id,
        "current": cache.current_segment_id,
    }
    lines = [f"{name} {value}" for name, value in head.items()]
    return "\n".join([*lines, *(f"{run.slots} {run.kind} {run.dirty}" for run in cache.segment_map())])
