# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/self/mountinfo, and the choice of a mount."""

import pytest

from lcfs.commands import mounts
from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import Mount, parse_mountinfo

A = Mount("/mnt/a", "0:51", "fuse.lcfs", "/srv/a.img", 0)
B = Mount("/mnt/b", "0:52", "fuse.lcfs", "/srv/b.img", 1000)
ROOT = Mount("/", "254:1", "ext4", "/dev/vda1", 0)


def test_a_line_of_mountinfo() -> None:
    line = (
        r"52 31 0:51 / /mnt/with\040space\134 rw,nosuid,nodev shared:7 master:2 - fuse.lcfs /srv/a\040b.img "
        "rw,user_id=1000,group_id=100,default_permissions\n"
    )
    assert parse_mountinfo(line) == Mount("/mnt/with space\\", "0:51", "fuse.lcfs", "/srv/a b.img", 1000)


def test_lines_of_this_machine() -> None:
    assert any(mount.mountpoint == "/proc" and mount.fs_type == "proc" for mount in mounts.all_mounts())


def see(monkeypatch: pytest.MonkeyPatch, *table: Mount) -> None:
    monkeypatch.setattr(mounts, "all_mounts", lambda: list(table))


def test_the_only_one_need_not_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, ROOT, A)
    assert mounts.the_mount(None) == A
    see(monkeypatch, ROOT, A, A._replace(mountpoint="/bind/of/a"))
    assert mounts.the_mount(None) == A


def test_none_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, ROOT)
    with pytest.raises(CommandFailed, match="no lcfs is mounted"):
        mounts.the_mount(None)
    see(monkeypatch, ROOT, A, B)
    with pytest.raises(CommandFailed, match=r"several lcfs are mounted \(/mnt/a, /mnt/b\); choose one with -m"):
        mounts.the_mount(None)
    assert mounts.the_mount("/mnt/b/") == B


def test_a_name_must_be_that_of_an_lcfs(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, ROOT, A, ROOT._replace(mountpoint="/mnt/a"))
    for path in ("/", "/mnt/b", "/mnt/a"):
        with pytest.raises(CommandFailed, match=f"^{path} is not a mounted lcfs"):
            mounts.the_mount(path)
