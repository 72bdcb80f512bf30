# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m lcfs`: the command line without an installed script."""

import sys

from lcfs.commands import main

sys.exit(main())
