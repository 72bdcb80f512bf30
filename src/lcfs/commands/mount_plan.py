# SPDX-License-Identifier: GPL-2.0-or-later
"""What `lcfs mount` was asked to do, checked as far as that goes without opening an image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs

from lcfs.commands.mount_options import MountOptions
from lcfs.commands.mount_words import CacheWord, DeviceWord

if TYPE_CHECKING:
    from lcfs.engine import MountSpec


@attrs.frozen
class MountPlan:
    """Every path is absolute, `mountpoint` canonical; `cache_size` is in bytes."""

    mountpoint: str
    caches: tuple[CacheWord, ...]
    devices: tuple[DeviceWord, ...]
    cache_size: int
    options: MountOptions
    background: bool
    service: bool = False
    """systemd started it and wants to be told."""
    live: bool = False
    debug: bool = False
    pid_file: str | None = None
    log_file: str | None = None

    def spec(self) -> MountSpec:
        """The engine's part of it."""
        from lcfs.engine import CacheSpec, DeviceSpec, MountSpec

        return MountSpec(
            caches=tuple(CacheSpec(word.path, id=word.id) for word in self.caches),
            devices=tuple(
                DeviceSpec(word.path, id=word.id, size=word.size, cache=word.cache, name=word.name) for word in self.devices
            ),
            cache_size=self.cache_size,
            readonly=self.options.readonly,
        )

    def libfuse_options(self) -> set[str]:
        """The words for libfuse's `-o`, where a backslash keeps a comma in a value.

        pyfuse3 takes only ASCII for them, so other bytes of a source are shown as a backslash, `x` and two digits.
        """
        source = os.fsencode(self.options.fsname or self.caches[0].path).decode("ascii", "backslashreplace")
        escaped = source.replace("\\", "\\\\").replace(",", "\\,")
        return {f"fsname={escaped}", *self.options.passed, *(["ro"] if self.options.readonly else [])}
