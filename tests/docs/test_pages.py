# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of docs/howto.md and docs/operations.md, section by section, with real mounts and loop devices.

There is no NFS server: a directory stands for its mount. All is done in a mount namespace whose /mnt is empty, so that
the pages can speak of /mnt/lc whatever this machine has there.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

from lcfs.tree_metrics import CACHE_FAMILIES, DEVICE_FAMILIES, MOUNT_FAMILIES
from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop]

DOCS = Path(__file__).parent.parent.parent / "docs"
HOWTO, OPERATIONS = ((DOCS / name).read_text() for name in ("howto.md", "operations.md"))


def sections_of(page: str) -> dict[str, list[str]]:
    """The shell commands under each heading."""
    return {
        section.partition("\n")[0]: re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        for section in page.split("\n## ")[1:]
    }


SECTIONS = sections_of(HOWTO) | {name: commands for name, commands in sections_of(OPERATIONS).items() if commands}

NEEDS = {"PostgreSQL": Path("/usr/lib/postgresql")}
"""What a section is about that `make test` does not install (`make kill` does); it is run where that is there."""

SHOWN = {
    "Images of virtual machines": ["virtual size: 128 MiB", "Images are identical."],
    "A database": ["\n2\n"],
    "A backing on NFS": ["running"],
    "PostgreSQL": ["500500"],
    "At boot": ["660 1234"],
    "Sizing": ["\n63\n"],
    "Is all well?": ["cache 1: running", "0 dirty lines damaged", 'lcfs_cache_state{cache="1",state="running"} 1'],
    "Monitoring": ['lcfs_cache_state{cache="1",state="running"} 1'],
    "Shutting down": ["newest"],
    "The machine lost power": ["synced"],
    "The SSD dies": ["Pass 5", "running"],
    "The image is full": ["\n0\n"],
    "Replacing the SSD": ["newestvm\n"],
    "A disk is too small": ["\n1073741824\n", "data blocks changed"],
    "Moving to another machine": ["newest"],
    "Backups": ["Pass 5", "kept"],
    "When the SSD or the disk dies": ["1 lines written to /mnt/slow/restored.raw, 0 left", "newest"],
}
"""What the person who follows a section sees."""

BEFORE = """set -eu
mount -t tmpfs none /mnt
mkdir /mnt/ssd /mnt/slow /mnt/lc
clean_up() {
    cd /
    [ ! -e /mnt/disk/data/postmaster.pid ] || kill -QUIT "$(head -n 1 /mnt/disk/data/postmaster.pid)" || true
    fsfreeze -u /mnt/disk 2>/dev/null || true
    umount /mnt/disk 2>/dev/null || umount -l /mnt/disk 2>/dev/null || true
    if [ -e /mnt/lc/devices/1 ]; then  # by inode: others have the path, too
        for name in $(losetup --noheadings --output NAME --associated /mnt/lc/devices/1); do losetup -d "$name"; done
    fi
    umount -l /mnt/lc 2>/dev/null || true
    umount -l /mnt/nbd 2>/dev/null || true
}
trap clean_up EXIT
"""


def test_every_section_has_commands() -> None:
    assert all(sections_of(HOWTO).values())
    assert SHOWN.keys() <= SECTIONS.keys()


@pytest.mark.parametrize("section", [section for section in SECTIONS if section not in NEEDS or NEEDS[section].is_dir()])
def test_a_section(section: str, lcfs: Lcfs) -> None:
    path = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n"
    (lcfs.directory / "script").write_text(
        BEFORE + path + "set -x\n" + "".join(SECTIONS[section]) + "! mountpoint -q /mnt/lc\n"
    )
    done = lcfs.shell("unshare", "--mount", "--propagation", "private", "sh", "script")
    for text in SHOWN.get(section, []):
        assert text in f"\n{done.stdout}"


def states_of(path: str, function: str) -> set[str]:
    """The first words of what a function called `function` returns."""
    tree = ast.parse((DOCS.parent / "src/lcfs" / path).read_text())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function)
    returned = [node.value for node in ast.walk(found) if isinstance(node, ast.Return)]
    return {re.findall(r"[a-z]+", ast.unparse(value).lstrip("f"))[0] for value in returned if value}


def test_every_state_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \| (\w+)(?:, (\w+))?", OPERATIONS, re.MULTILINE))
    listed = {(word, owner) for word, *owners in rows for owner in owners if owner in ("cache", "disk")}
    caches, disks = states_of("engine/cache.py", "state"), states_of("engine/device.py", "state")
    assert listed == {(word, "cache") for word in caches} | {(word, "disk") for word in disks}
    assert {"running", "degraded", "failed"} == caches
    assert '"dead" if' in (DOCS.parent / "src/lcfs/commands/status.py").read_text()
    assert any(word == "dead" for word, *_ in rows)


def test_the_metrics_to_alert_on_are_there() -> None:
    exported = {family.name for family in (*MOUNT_FAMILIES, *CACHE_FAMILIES, *DEVICE_FAMILIES)}
    rules = "".join(re.findall(r"^```yaml\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"`(lcfs_\w+)`", OPERATIONS)) | set(re.findall(r"\blcfs_\w+", rules))
    assert named
    assert named <= exported
