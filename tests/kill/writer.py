# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.kill.writer KIND PLACE WITNESS FIRST LAST_WORD`: a process that writes until its disk is gone."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from tests.kill import database, files, raw
from tests.kill.witness import Witness


def main() -> int:
    """0 when an operation failed as operations on a dead disk do."""
    kind, place, witness, first, last_word = sys.argv[1:]
    try:
        match kind:
            case "files":
                files.write(Path(place), Witness(Path(witness)), int(first), int(last_word))
            case "database":
                database.write(Path(place), Witness(Path(witness)), int(first), last_word)
            case "raw":
                raw.write(Path(place), Witness(Path(witness)), int(first), int(last_word))
            case _:
                raise ValueError(kind)
    except (OSError, sqlite3.Error) as error:
        print(f"{place}: {error}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
