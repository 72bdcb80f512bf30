# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and words that more than one verb takes, each spelled and parsed once."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from lcfs.commands.failure import USAGE

LAST_ID = 254
"""The same as `lcfs.engine.geometry.MAX_ID`, said again because importing the engine takes 0.2 s."""
DEFAULT_CACHE_SIZE = 256 << 20
"""Bytes of a cache image that is created without being told a size."""
TAB = "/etc/lcfs.toml"
"""The tab file, unless another is named."""
LARGEST_SIZE = (1 << 63) - 1
"""off_t."""

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose usage errors end with its own `usage_exit`, and that knows no abbreviations."""

    usage_exit = USAGE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        # "--cache -1=x" is to be told what is wrong with the id, not that an argument is missing
        self._negative_number_matcher = re.compile(r"-\d")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here, in the verb's own parser: argparse leaves that to the outermost one."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_exit, f"{self.prog}: {message}\n")


def parse_size(text: str) -> int:
    """Bytes from `text`: decimal digits, and K, M, G or T in either case for powers of 1024.

    Raises ValueError with a sentence for zero, signs, fractions, anything else, and more than 2**63 - 1 bytes.
    """
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", text.upper(), re.ASCII)
    if match is None or len(match[1]) > 20:
        raise ValueError(f"size {text!r} is not a number of bytes; write digits, or digits with K, M, G or T: 256M")
    size = int(match[1]) << _UNITS[match[2]]
    if not 0 < size <= LARGEST_SIZE:
        raise ValueError(f"size {text!r} is out of range; give 1 byte to 8388607T")
    return size


def parse_id(text: str, *, what: str, lowest: int = 1) -> int:
    """The id of a disk or cache. Raises ValueError with a sentence unless it is `lowest` to 254."""
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or not lowest <= int(text) <= LAST_ID:
        raise ValueError(f"{what} id {text!r} is not a number from {lowest} to {LAST_ID}")
    return int(text)


def size(text: str) -> int:
    """`parse_size` as the `type` of an argument."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def disk_id(text: str) -> int:
    """A disk id, 1 to 254, as the `type` of an argument."""
    return _checked_id(text, "disk", 1)


def cache_id(text: str) -> int:
    """A cache id, 1 to 254, as the `type` of an argument."""
    return _checked_id(text, "cache", 1)


def cache_id_or_none(text: str) -> int:
    """A cache id, or 0 for no cache, as the `type` of an argument."""
    return _checked_id(text, "cache", 0)


def _checked_id(text: str, what: str, lowest: int) -> int:
    try:
        return parse_id(text, what=what, lowest=lowest)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> str:
    """A path that can be named in a message, as the `type` of an argument."""
    if not text or "\n" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"path {text!r} is empty or holds a line break; give another path")
    return text


def add_mount_option(parser: argparse.ArgumentParser) -> None:
    """`-m MNT`: which lcfs is meant."""
    parser.add_argument(
        "-m",
        "--mountpoint",
        metavar="MNT",
        help="the lcfs that is meant; may be left out when exactly one is mounted",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`-J`, `--json`, as util-linux spells it."""
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def add_disk_argument(parser: argparse.ArgumentParser) -> None:
    """The positional id of a disk."""
    parser.add_argument("id", metavar="ID", type=disk_id, help="the disk, 1 to 254")


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """The positional id of a cache."""
    parser.add_argument("id", metavar="ID", type=cache_id, help="the cache, 1 to 254")


def add_image_argument(parser: argparse.ArgumentParser) -> None:
    """The positional path of a cache image."""
    parser.add_argument("image", metavar="IMAGE", type=path, help="the cache image: a file or block device")
