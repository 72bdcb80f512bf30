# SPDX-License-Identifier: GPL-2.0-or-later
"""The word ADDR:PORT of `--metrics`, `-o metrics=` and the tab file."""

from __future__ import annotations

import re
from typing import NamedTuple

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


class Address(NamedTuple):
    """Where metrics are served: an IP address or a name, and a TCP port; 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError with one sentence."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"metrics address {text!r} is not ADDR:PORT; write it as 127.0.0.1:9350 or [::1]:9350")
    return Address(match["v6"] or match["host"], int(match["port"]))
