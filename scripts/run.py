# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make run` does after set-up: lcfs in the foreground on ./run, ended by Ctrl-C.

make dies of the SIGINT that a terminal sends to the whole foreground process group, whatever its recipe
returns. So lcfs gets a process group of its own, which is the terminal's foreground group while it runs: Ctrl-C
reaches lcfs alone, and make sees its exit code. Without a terminal nothing is rearranged.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

RUN = Path("run")
COMMAND = (
    str(Path(sys.executable).parent / "lcfs"),
    "mount",
    str(RUN / "mnt"),
    "--cache",
    str(RUN / "ssd.img"),
    "--foreground",
    "--live",
)


def in_own_group(command: tuple[str, ...], terminal: int) -> int:
    """Exit code of `command`, run as the foreground process group of `terminal` (a file descriptor)."""
    # Inherited over exec: a daemon stopped by Ctrl-Z would hang everything that uses the mount.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    child = subprocess.Popen(command, process_group=0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    # Taking the terminal back from a background group raises SIGTTOU. After the fork: lcfs does not inherit this one.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(terminal, child.pid)
    try:
        return child.wait()
    finally:
        os.tcsetpgrp(terminal, os.getpgrp())


def main() -> int:
    """Exit code of the mount; 1 when there is nothing to mount with."""
    if importlib.util.find_spec("pyfuse3") is None:
        print("make run: pyfuse3 is not installed, see what set-up says is missing", file=sys.stderr)
        return 1
    try:
        (RUN / "mnt").mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        pass  # a dead mount answers no stat; lcfs mount cleans it up, or says what is in the way
    terminal = sys.stdin.fileno()
    if os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp():
        return in_own_group(COMMAND, terminal)
    os.execv(COMMAND[0], COMMAND)


if __name__ == "__main__":
    sys.exit(main())
