# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.simulation`: see lives.py. (A process that is spawned does not find what stands in a `__main__`.)"""

import sys

from tests.simulation.lives import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
