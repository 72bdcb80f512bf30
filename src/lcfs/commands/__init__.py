# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one verb per file, options spelled once in `arguments`.

Nothing here imports trio, pyfuse3 or numpy before a verb needs it: `lcfs status` reads the tree and starts fast.
"""

from lcfs.commands.command_line import main as main
