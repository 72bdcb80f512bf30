# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be changed of a disk that stays: its size and its settings, one operation at a time."""

from __future__ import annotations

import errno

import trio

from lcfs.engine.device import Device
from lcfs.engine.errors import Cancelled, Failed, InUse, Invalid, LcfsError, Missing, NoSpace, Unsuitable, WrongDisk
from lcfs.engine.geometry import SECTOR
from lcfs.engine.mounted import Mounted
from lcfs.engine.spec import check_disk_size, check_name
from lcfs.engine.tunables import MIGRATE_THRESHOLD


class DiskChanges(Mounted):
    """Changes of one disk; each leaves the old state or the new one."""

    async def grow(self, number: int, size: int | None) -> None:
        """Make a disk longer while it is in use: `size` bytes, or as long as its backing is by now.

        First the backing, durably, then the disk table: whatever a crash leaves, no disk is longer than its backing.
        What was added to the backing stays when the rest fails. Raises Invalid for a size that is none, or smaller.
        """
        self._require_writable()
        device = self.device(number)
        with self._operation(device):
            cache = device.cache
            with self._using(cache):
                size = await self._grow_backing(device, size)
                if size == device.size:
                    return
                before = device.size

                def shrink_again() -> None:
                    device.resize(before)

                with device.held():
                    await device.quiesce()
                    device.resize(size)
                    await self._decide(cache, shrink_again)
                for call in self.on_resize:
                    call(device)
        await self._remember(cache)

    async def _grow_backing(self, device: Device, wanted: int | None) -> int:
        """The size that the disk can have now."""
        store = device.store
        if device.missing or store is None:
            raise Missing(f"disk {device.id} is missing: {device.missing}")
        if wanted is not None and wanted < device.size:
            raise Invalid(f"disk {device.id} has {device.size} bytes and cannot shrink to {wanted}; give a larger size")
        try:
            await store.grow(wanted)
        except OSError as exc:
            raise _growth_error(device, exc) from exc
        whole = store.size - store.size % SECTOR
        if wanted is not None and whole < wanted:
            raise Unsuitable(f"{device.path} has {store.size} bytes, less than the {wanted} asked for; make it larger first")
        if whole < device.size:
            raise WrongDisk(f"{device.path} has {store.size} bytes and disk {device.id} has {device.size}: it has shrunk")
        return check_disk_size(whole) if wanted is None else wanted

    async def set_device_name(self, device: Device, name: str) -> None:
        """Rename; durable when this returns. Raises Invalid."""
        self._require_writable()
        before, device.name = device.name, check_name(name)

        def undo() -> None:
            device.name = before

        await self._decide(device.cache, undo)
        await self._remember(device.cache)

    async def set_migrate_threshold(self, device: Device, value: int) -> None:
        """Change migrate_threshold; durable when this returns. Raises Invalid (B16)."""
        self._require_writable()
        before, device.migrate_threshold = device.migrate_threshold, MIGRATE_THRESHOLD.check(value)

        def undo() -> None:
            device.migrate_threshold = before

        await self._decide(device.cache, undo)
        await self._remember(device.cache)

    def _operation(self, device: Device) -> _OneAtATime:
        return _OneAtATime(self._busy, device)


def _growth_error(device: Device, exc: OSError) -> LcfsError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(f"no room to make {device.path} longer: {exc.strerror}; free some or choose a smaller size")
    return Failed(f"{device.path} could not be made longer: {exc.strerror or exc}; look at what holds it", errno=exc.errno)


class _OneAtATime:
    """One operation per disk at a time; `Manager.cancel` turns it into Cancelled."""

    def __init__(self, busy: dict[int, trio.CancelScope], device: Device) -> None:
        self._busy = busy
        self._device = device
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        number = self._device.id
        if number in self._busy:
            raise InUse(f"another operation on disk {number} is under way; wait for it, or call it off with `cancel {number}`")
        self._busy[number] = self._scope
        self._scope.__enter__()

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        del self._busy[self._device.id]
        self._scope.__exit__(type(exc) if exc is not None else None, exc, None)
        if self._scope.cancelled_caught:
            raise Cancelled(f"called off; disk {self._device.id} stays as it was")
