# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: a log-structured write-back cache over block stores. It knows trio, and nothing of FUSE.

Start at `manager.open_manager`, which brings up a mount, or at `cache.Cache`, where a request is decided.
"""

from lcfs.engine.block_store import BlockStore, Buffer, Label, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_format import DiskEntry, RecordHeader, Superblock
from lcfs.engine.errors import LcfsError
from lcfs.engine.file_store import FileStorage, FileStore
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import Geometry
from lcfs.engine.log_reader import LogReader
from lcfs.engine.manager import Manager, open_manager
from lcfs.engine.recover import resume_cache
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.engine.superblock import read_superblock, read_superblocks

__all__ = [
    "BlockStore",
    "Buffer",
    "Cache",
    "CacheSpec",
    "Device",
    "DeviceSpec",
    "DiskEntry",
    "FileStorage",
    "FileStore",
    "Geometry",
    "Label",
    "LcfsError",
    "LogReader",
    "Manager",
    "MountSpec",
    "RecordHeader",
    "Storage",
    "Superblock",
    "format_image",
    "open_manager",
    "read_superblock",
    "read_superblocks",
    "resume_cache",
]
