# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind `-o`: the options lcfs implements, those the kernel gets, those that mean nothing here."""

from __future__ import annotations

import re

import attrs

from lcfs.commands.metrics_address import Address, parse_address

PASSED = frozenset(
    {
        *("allow_other", "allow_root", "auto_unmount", "async", "sync", "dirsync"),
        *("atime", "noatime", "diratime", "nodiratime", "nodev", "nosuid", "noexec"),
    }
)
"""Given to libfuse as they are."""

OWN = frozenset({"ro", "rw", "nonempty", "writeback_cache"})
"""Flags that lcfs itself acts on."""

OWN_VALUES = frozenset({"uid", "gid", "mode", "fsname", "metrics"})
"""Words with a value that lcfs itself acts on."""

IGNORED = frozenset(
    {
        *("defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime"),
        *("dev", "suid", "exec", "mand", "nomand", "iversion", "noiversion", "silent", "loud"),
        *("default_permissions", "comment", "subtype"),
    }
)
"""For mount(8) and fstab(5) only, or on anyway: libfuse would refuse them, or say them twice."""

DEFAULT_MODE = 0o600


@attrs.frozen
class MountOptions:
    """The words of all `-o`, sorted out.

    `uid` and `gid` are None for those of the daemon; `mode` are the permission bits of the disk files and control;
    `fsname` is what mountinfo shows as source, None for the first image; `metrics` where these are served over HTTP.
    """

    readonly: bool = False
    nonempty: bool = False
    writeback_cache: bool = False
    uid: int | None = None
    gid: int | None = None
    mode: int = DEFAULT_MODE
    fsname: str | None = None
    metrics: Address | None = None
    passed: frozenset[str] = frozenset()


def parse_options(words: list[str]) -> MountOptions:
    """Each word is a comma-separated list. Raises ValueError with a sentence; the last of a contradiction counts."""
    flags: dict[str, bool] = {}
    values: dict[str, str] = {}
    passed: set[str] = set()
    for option in (option for word in words for option in word.split(",") if option):
        key, equals, value = option.partition("=")
        if key in IGNORED or key.startswith(("x-", "X-")):
            continue
        if equals and key in OWN_VALUES:
            values[key] = value
        elif not equals and key in OWN:
            flags[key] = True
            if key in ("ro", "rw"):
                flags["ro"] = key == "ro"
        elif key in PASSED if not equals else key == "max_read":
            passed.add(option)
        else:
            raise ValueError(f"mount option {option!r} is not known; lcfs-mount(8) lists those that are")
    mode = _number(values, "mode", r"[0-7]{1,4}", 8, "octal permission bits such as 0660")
    return MountOptions(
        readonly=flags.get("ro", False),
        nonempty="nonempty" in flags,
        writeback_cache="writeback_cache" in flags,
        uid=_number(values, "uid", r"[0-9]{1,10}", 10, "a user's number"),
        gid=_number(values, "gid", r"[0-9]{1,10}", 10, "a group's number"),
        mode=DEFAULT_MODE if mode is None else mode,
        fsname=values.get("fsname") or None,
        metrics=parse_address(values["metrics"]) if "metrics" in values else None,
        passed=frozenset(passed),
    )


def _number(values: dict[str, str], key: str, pattern: str, base: int, meaning: str) -> int | None:
    text = values.get(key)
    if text is None:
        return None
    number = int(text, base) if re.fullmatch(pattern, text, re.ASCII) else -1
    limit = 0o777 if key == "mode" else (1 << 32) - 2
    if not 0 <= number <= limit:
        raise ValueError(f"mount option {key}={text} is not {meaning}")
    return number
