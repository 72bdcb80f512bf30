# SPDX-License-Identifier: GPL-2.0-or-later
"""Doubles for tests of lcfs and of programs that use its engine, and the oracle that judges them.

Stores: `MemoryStore` (on a `Medium` with a live and a durable image) and `MemoryStorage`, a file system of
them. Layers, each around a `next` store: `DelayStore`, `FaultStore`, `LogStore`, `CrashStore`. They stack:
`LogStore(DelayStore(MemoryStore.of_size(1 << 20), writes=0.01))`. `LayeredStorage` puts them on real files, on which
`ForgetfulStore` makes SIGKILL a loss of power. `Model` knows what the disks may hold.
"""

from lcfs.testing.crash import CrashStore
from lcfs.testing.delay import DelayStore
from lcfs.testing.fault import Effect, Fault, FaultStore, Operation
from lcfs.testing.forgetful import ForgetfulStore
from lcfs.testing.image import SparseImage
from lcfs.testing.layer import Layer
from lcfs.testing.layered import LayeredStorage
from lcfs.testing.log import Call, Log, LogStore
from lcfs.testing.memory import Medium, MemoryStore
from lcfs.testing.model import Model, Violation
from lcfs.testing.storage import MemoryStorage
from lcfs.testing.unsynced import (
    ALL,
    Choose,
    Survival,
    UnsyncedWrite,
    apply_survivors,
    keep_all,
    keep_random,
    lose_all,
)

__all__ = [
    "ALL",
    "Call",
    "Choose",
    "CrashStore",
    "DelayStore",
    "Effect",
    "Fault",
    "FaultStore",
    "ForgetfulStore",
    "Layer",
    "LayeredStorage",
    "Log",
    "LogStore",
    "Medium",
    "MemoryStorage",
    "MemoryStore",
    "Model",
    "Operation",
    "SparseImage",
    "Survival",
    "UnsyncedWrite",
    "Violation",
    "apply_survivors",
    "keep_all",
    "keep_random",
    "lose_all",
]
