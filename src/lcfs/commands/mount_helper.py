# SPDX-License-Identifier: GPL-2.0-or-later
"""`mount.lcfs`, and `lcfs SRC DIR -o OPTS`: how mount(8), fstab(5) and mount.fuse3(8) call a mount.

mount(8) runs `/sbin/mount.lcfs SRC DIR [-sfnv] [-N NAMESPACE] [-o OPTS] [-t TYPE]`, mount.fuse3 runs
`lcfs SRC DIR -o OPTS`. Both are `lcfs mount DIR --cache SRC -o OPTS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lcfs.commands import command_line
from lcfs.commands.arguments import Parser
from lcfs.commands.failure import MOUNT_USAGE


def looks_like(words: Sequence[str]) -> bool:
    """Whether `words` have the form SRC DIR -o OPTS. The -o must be there: a misspelt verb has none."""
    return len(words) >= 4 and not any(word.startswith("-") for word in words[:2]) and words[2].startswith("-o")


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `mount.lcfs`; the exit code."""
    parser = Parser(prog="mount.lcfs", description="mount a cache image; see lcfs-mount(8)")
    parser.usage_exit = MOUNT_USAGE
    parser.add_argument("source", metavar="SRC", help="the cache image")
    parser.add_argument("mountpoint", metavar="DIR", help="an empty directory")
    parser.add_argument("-o", metavar="OPTS", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("-f", dest="fake", action="store_true", help="parse the words, mount nothing")
    parser.add_argument("-s", action="store_true", help="for mount(8); no meaning here")
    parser.add_argument("-n", action="store_true", help="for mount(8); no meaning here")
    parser.add_argument("-v", action="store_true", help="for mount(8); no meaning here")
    parser.add_argument("-N", metavar="NAMESPACE", help="for mount(8); no meaning here")
    parser.add_argument("-t", metavar="TYPE", help="for mount(8); no meaning here")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.fake:
        return 0
    source = options.source if "/" in options.source else "./" + options.source
    given = [word for text in options.options for word in ("-o", text)]
    return command_line.main(["mount", options.mountpoint, "--cache", source, *given])
