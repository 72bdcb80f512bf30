# SPDX-License-Identifier: GPL-2.0-or-later
"""Where may be mounted: judged before anything is opened or created."""

from pathlib import Path

import pytest

from lcfs.commands import mount_point, mounts
from lcfs.commands.failure import MOUNT_FAILED, CommandFailed
from lcfs.commands.mounts import Loop, Mount


def refusal(path: Path | str, *, nonempty: bool = False) -> str:
    with pytest.raises(CommandFailed) as refused:
        mount_point.prepare(str(path), nonempty=nonempty, note=pytest.fail)
    assert refused.value.exit_code == MOUNT_FAILED
    return str(refused.value)


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    assert mount_point.prepare(str(tmp_path / "link"), nonempty=False, note=pytest.fail) == str(tmp_path / "mnt")


def test_missing(tmp_path: Path) -> None:
    assert f"{tmp_path}/a/b does not exist; create it with: mkdir -p" in refusal(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in refusal(tmp_path / "file")
    assert "is not a directory" in refusal(tmp_path / "file", nonempty=True)
    assert "cannot be used: Not a directory" in refusal(tmp_path / "file" / "below")


def test_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not empty (it has file)" in refusal(tmp_path)
    assert mount_point.prepare(str(tmp_path), nonempty=True, note=pytest.fail) == str(tmp_path)


def test_already_a_mount(tmp_path: Path) -> None:
    assert "is a mount point already (proc)" in refusal("/proc")
    assert mount_point.prepare("/proc", nonempty=True, note=pytest.fail) == "/proc"


def test_already_an_lcfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Mount(str(tmp_path), "0:99", "fuse.lcfs", "ssd.img", 0)
    monkeypatch.setattr(mounts, "all_mounts", lambda: [there])
    assert f"is a mounted lcfs already; unmount it with: lcfs umount {tmp_path}" in refusal(tmp_path)


def test_a_dead_lcfs_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = [Mount(str(tmp_path), f"0:{n}", "fuse.lcfs", "ssd.img", 0) for n in (98, 99)]
    taken: list[str] = []
    monkeypatch.setattr(mounts, "all_mounts", lambda: stacked)
    monkeypatch.setattr(mount_point, "is_dead", lambda path: bool(stacked))
    monkeypatch.setattr(mount_point, "unmount", lambda path, lazy: taken.append(stacked.pop().device))
    monkeypatch.setattr(mount_point, "loops_on", lambda path: [Loop("/dev/loop7", f"{path}/devices/1")])
    notes: list[str] = []
    assert mount_point.prepare(str(tmp_path), nonempty=False, note=notes.append) == str(tmp_path)
    assert taken == ["0:99", "0:98"], "one on top of the other, the upper one first"
    assert "took away the dead mount" in notes[0]
    assert "losetup -d /dev/loop7" in notes[0]


def test_somebody_elses_dead_mount_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "all_mounts", lambda: [Mount(str(tmp_path), "0:99", "fuse.sshfs", "host:", 0)])
    monkeypatch.setattr(mount_point, "is_dead", lambda path: True)
    monkeypatch.setattr(mount_point, "unmount", pytest.fail)
    assert "dead fuse.sshfs mount; unmount that first" in refusal(tmp_path)


def test_an_image_may_not_be_hidden_by_the_mount(tmp_path: Path) -> None:
    for below in (tmp_path / "ssd.img", tmp_path / "sub" / "ssd.img", tmp_path):
        with pytest.raises(CommandFailed, match="which would hide it"):
            mount_point.require_outside(str(tmp_path), str(below))
    mount_point.require_outside(str(tmp_path), str(tmp_path) + ".img")
