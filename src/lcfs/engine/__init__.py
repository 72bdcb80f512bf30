# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: a log-structured write-back cache over block stores. It knows trio, and nothing of FUSE.

Start at `manager.open_manager`, which brings up a mount, or at `cache.Cache`, where a request is decided.
"""

from lcfs.engine.block_store import BlockStore, Buffer, Label, Storage
from lcfs.engine.cache import Cache
from lcfs.engine.device import Device
from lcfs.engine.disk_format import DiskEntry, RecordHeader, Superblock
from lcfs.engine.errors import (
    AlreadyThere,
    Cancelled,
    Damaged,
    Failed,
    InUse,
    Invalid,
    LcfsError,
    Missing,
    NewerVersion,
    NoSpace,
    NoSuchThing,
    NotACacheImage,
    NotPermitted,
    OutOfRange,
    Unsuitable,
    WrongDisk,
)
from lcfs.engine.file_store import FileStorage, FileStore
from lcfs.engine.formatting import format_image
from lcfs.engine.geometry import Geometry
from lcfs.engine.log_reader import LogReader
from lcfs.engine.manager import Manager, open_manager
from lcfs.engine.recover import resume_cache
from lcfs.engine.spec import CacheSpec, DeviceSpec, MountSpec
from lcfs.engine.superblock import read_superblock, read_superblocks

__all__ = [
    "AlreadyThere",
    "BlockStore",
    "Buffer",
    "Cache",
    "CacheSpec",
    "Cancelled",
    "Damaged",
    "Device",
    "DeviceSpec",
    "DiskEntry",
    "Failed",
    "FileStorage",
    "FileStore",
    "Geometry",
    "InUse",
    "Invalid",
    "Label",
    "LcfsError",
    "LogReader",
    "Manager",
    "Missing",
    "MountSpec",
    "NewerVersion",
    "NoSpace",
    "NoSuchThing",
    "NotACacheImage",
    "NotPermitted",
    "OutOfRange",
    "RecordHeader",
    "Storage",
    "Superblock",
    "Unsuitable",
    "WrongDisk",
    "format_image",
    "open_manager",
    "read_superblock",
    "read_superblocks",
    "resume_cache",
]
