# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.kill.writer KIND DIRECTORY WITNESS FIRST EXTRA`: a process that writes until its disk is gone."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from tests.kill import database, files
from tests.kill.witness import Witness


def main() -> int:
    """0 when an operation failed as operations on a dead disk do."""
    kind, directory, witness, first, extra = sys.argv[1:]
    try:
        if kind == "files":
            files.write(Path(directory), Witness(Path(witness)), int(first), int(extra))
        else:
            database.write(Path(directory), Witness(Path(witness)), int(first), extra)
    except (OSError, sqlite3.Error) as error:
        print(f"{directory}: {error}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
