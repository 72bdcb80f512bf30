# SPDX-License-Identifier: GPL-2.0-or-later
"""What another user gets: nothing by default, and with allow_other what uid, gid and mode give."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcfs.commands import run_file
from lcfs.commands.mounts import Mount
from tests.mount.harness import Lcfs

pytestmark = [pytest.mark.mount, pytest.mark.loop]

NOBODY = 65534
SOURCE = Path(__file__).parent.parent.parent / "src" / "lcfs"


@pytest.fixture
def open_way(lcfs: Lcfs) -> Iterator[Lcfs]:
    """The directories above the mount point let everybody through, so that only lcfs stands in the way."""
    opened = []
    for parent in (lcfs.directory, *lcfs.directory.parents):
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & 0o001:
            parent.chmod(mode | 0o011)
            opened.append((parent, mode))
    yield lcfs
    for parent, mode in opened:
        parent.chmod(mode)


def as_nobody(lcfs: Lcfs, script: str, *, gid: int = NOBODY) -> tuple[int, str]:
    """Exit code and stderr of a shell script run as nobody in the directory."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={gid}", "--clear-groups", "sh", "-c", script]
    done = subprocess.run(words, cwd=lcfs.directory, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "script",
    [
        "ls mnt",
        "stat mnt/devices/1",
        "dd if=mnt/devices/1 of=/dev/null count=1",
        "dd if=/dev/zero of=mnt/devices/1 count=1 conv=notrunc",
        "echo clear_stat > mnt/control",
        "cat mnt/status",
        "cat mnt/metrics",
    ],
)
def test_by_default_nothing(script: str, open_way: Lcfs) -> None:
    open_way.mount()
    code, said = as_nobody(open_way, script)
    assert code != 0
    assert "Permission denied" in said


def test_allow_other_opens_what_everybody_may_read(open_way: Lcfs) -> None:
    """And nothing else: no disk, no control, and no attribute is written."""
    open_way.mount("-o", "allow_other")
    for script in ("cat mnt/status", "cat mnt/metrics", "cat mnt/caches/1/state", "ls -l mnt/devices", "find mnt"):
        assert as_nobody(open_way, script) == (0, "")
    for script in (
        "cat mnt/control",
        "dd if=mnt/devices/1 of=/dev/null count=1",
        "dd if=/dev/zero of=mnt/devices/1 count=1 conv=notrunc",
        "echo 1 > mnt/caches/1/drop_caches",
        "echo 1 > mnt/caches/1/flush_current_buffer",
        "echo 50 > mnt/caches/1/migrate_threshold",
        "echo x > mnt/block/1/name",
    ):
        code, said = as_nobody(open_way, script)
        assert code != 0, script
        assert "Permission denied" in said
    for script in ("touch mnt/new", "rm -f mnt/devices/1", "mv mnt/devices/1 mnt/x", "chmod 666 mnt/devices/1"):
        assert as_nobody(open_way, script)[0] != 0, script


def test_the_group_gets_what_mode_gives(open_way: Lcfs) -> None:
    open_way.mount("-o", "allow_other,gid=1234,mode=0640")
    read = "dd if=mnt/devices/1 of=/dev/null count=1 status=none"
    write = "dd if=/dev/zero of=mnt/devices/1 count=1 conv=notrunc status=none"
    assert as_nobody(open_way, read, gid=1234) == (0, "")
    assert as_nobody(open_way, write, gid=1234)[0] != 0
    assert as_nobody(open_way, read)[0] != 0


def test_the_user_named_by_uid_owns_disks_and_control(open_way: Lcfs) -> None:
    open_way.mount("-o", f"allow_other,uid={NOBODY}")
    write = "dd if=/dev/zero of=mnt/devices/1 count=1 conv=notrunc status=none"
    assert as_nobody(open_way, f"{write} && echo switch_to 1 > mnt/control") == (0, "")
    assert as_nobody(open_way, "chown 1 mnt/devices/1")[0] != 0


def test_what_is_created_is_the_owners_alone(open_way: Lcfs) -> None:
    former = os.umask(0)
    try:
        open_way.mount()
    finally:
        os.umask(former)
    for name in ("ssd.img", "ssd.disk1.img"):
        assert stat.S_IMODE((open_way.directory / name).stat().st_mode) == 0o600
        assert as_nobody(open_way, f"cat {name} > /dev/null")[0] != 0
    assert not stat.S_IMODE(os.stat(run_file.directory(0)).st_mode) & 0o022


@pytest.mark.parametrize("name", ["ssd.img", "ssd.disk1.img", "mnt.log", "mnt.pid"])
def test_a_link_laid_out_for_a_file_that_is_created(name: str, open_way: Lcfs) -> None:
    """Nothing is written through it to where it leads."""
    bait = open_way.directory / "bait"
    (open_way.directory / "mnt").mkdir()
    (open_way.directory / name).symlink_to(bait)
    words = ("--cache", "ssd.img", "--log", "mnt.log", "--pid-file", "mnt.pid")
    done = open_way.run("mount", "mnt", *words, check=False)
    assert not bait.exists(), done.stderr
    if done.returncode == 0:
        open_way.run("umount", "mnt")


@pytest.mark.parametrize(
    "words",
    [
        ("cache", "format", "link", "--size", "4M"),
        ("device", "create", "-m", "mnt", "2", "link", "--size", "4M"),
        ("cache", "move", "-m", "mnt", "1", "link", "--size", "4M"),
    ],
    ids=" ".join,
)
def test_a_link_laid_out_for_what_a_verb_creates(words: tuple[str, ...], open_way: Lcfs) -> None:
    bait = open_way.directory / "bait"
    (open_way.directory / "link").symlink_to(bait)
    open_way.mount()
    done = open_way.run(*words, check=False)
    assert not os.path.lexists(bait), done.stdout
    assert done.returncode == 1
    assert re.search("bait,? (which )?does not exist", done.stderr)
    assert open_way.read("caches/1/state") == "running"
    assert os.listdir(open_way.directory / "mnt/caches") == ["1"]


@pytest.mark.parametrize("name", ["ssd.img", "ssd.disk1.img", "mnt.pid"])
def test_a_link_to_a_file_that_is_there(name: str, open_way: Lcfs) -> None:
    """What another user would like to see overwritten stays as it is."""
    victim = open_way.directory / "victim"
    victim.write_text("of somebody else\n" * 1000)
    before = victim.read_bytes()
    (open_way.directory / "mnt").mkdir()
    (open_way.directory / name).symlink_to(victim)
    done = open_way.run("mount", "mnt", "--cache", "ssd.img", "--pid-file", "mnt.pid", check=False)
    assert victim.read_bytes() == before
    if done.returncode == 0:
        open_way.run("umount", "mnt")


@pytest.mark.parametrize("laid", ["a link", "a directory of another"])
def test_a_run_directory_laid_out_by_somebody_else(laid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name can be known beforehand; nothing is made in it unless it is ours."""
    home, elsewhere = tmp_path / "lcfs-0", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if laid == "a link":
        home.symlink_to(elsewhere)
    else:
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
    monkeypatch.setattr(run_file, "directory", lambda uid: str(home))
    with pytest.raises(PermissionError):
        run_file.RunFile("0:99")
    assert list(home.iterdir()) == []
    assert list(elsewhere.iterdir()) == []


def test_a_run_file_of_somebody_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever made it could name any process as the daemon, and have it waited for."""
    monkeypatch.setattr(run_file, "directory", lambda uid: str(tmp_path))
    ours = run_file.RunFile("0:99")
    mount = Mount("/mnt", "0:99", "fuse.lcfs", "x", os.geteuid())
    assert run_file.daemon_of(mount) == os.getpid()
    os.chown(tmp_path / "0:99", NOBODY, NOBODY)
    assert run_file.daemon_of(mount) is None
    ours.remove()


def test_no_shell_and_no_predictable_temporary_name() -> None:
    """No call of the source starts a shell; tempfile alone makes names below a temporary directory.

    But for the run directory of a user without /run/user, which is looked at before it is used (above).
    """
    for path in SOURCE.glob("**/*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"}, path
                shells = [k for k in node.keywords if k.arg == "shell"]
                assert not shells, f"{path}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "run_file.py":
                assert not re.search("/tmp/|/var/tmp|/dev/shm", node.value), f"{path}:{node.lineno}"
