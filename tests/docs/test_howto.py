# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of docs/howto.md, section by section, with real mounts and loop devices.

In a mount namespace whose /mnt is empty, so that the pages can speak of /mnt/lc whatever this machine has there.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "howto.md").read_text()

SECTIONS = {
    section.partition("\n")[0]: re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}

SHOWN = {
    "Images of virtual machines": ["virtual size: 128 MiB"],
    "A database": ["\n2\n"],
    "A backing on NFS": ["running"],
    "When the SSD or the disk dies": ["1 lines written to /mnt/slow/restored.raw, 0 left", "newest"],
}
"""What the person who follows a section sees."""

BEFORE = """set -eu
mount -t tmpfs none /mnt
mkdir /mnt/ssd /mnt/slow /mnt/lc
clean_up() {
    umount /mnt/disk 2>/dev/null || true
    if [ -e /mnt/lc/devices/1 ]; then  # by inode: others have the path, too
        for name in $(losetup --noheadings --output NAME --associated /mnt/lc/devices/1); do losetup -d "$name"; done
    fi
    umount -l /mnt/lc 2>/dev/null || true
}
trap clean_up EXIT
"""


def test_every_section_has_commands() -> None:
    assert all(SECTIONS.values())
    assert SHOWN.keys() <= SECTIONS.keys()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section(section: str, lcfs: Lcfs) -> None:
    path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
    (lcfs.directory / "script").write_text(
        BEFORE + path + "set -x\n" + "".join(SECTIONS[section]) + "! mountpoint -q /mnt/lc\n"
    )
    done = lcfs.shell("unshare", "--mount", "--propagation", "private", "sh", "script")
    for text in SHOWN.get(section, []):
        assert text in f"\n{done.stdout}"
