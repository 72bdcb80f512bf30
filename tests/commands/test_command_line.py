# SPDX-License-Identifier: GPL-2.0-or-later
"""The grammar: exit codes of a wrong invocation, the forms mount(8) uses, what is imported when."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lcfs
from lcfs.commands import command_line, mount_helper
from lcfs.commands.failure import CHECK_USAGE, MOUNT_USAGE, USAGE

SRC = str(Path(lcfs.__file__).parent.parent)

HEAVY = ("trio", "pyfuse3", "numpy", "attrs", "asyncio", "rich")


def usage_of(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("bogus",),
        ("--bogus",),
        ("status", "--js"),
        ("cache",),
        ("cache", "bogus"),
        ("cache", "free", "abc"),
        ("cache", "free", "0"),
        ("cache", "stats", "255"),
        ("cache", "format"),
        ("cache", "format", "x.img", "--size", "0"),
        ("cache", "resume", "-1", "x.img"),
        ("device", "create", "1"),
        ("device", "create", "1", ""),
        ("device", "create", "1", "a\nb"),
        ("device", "create", "1", "x", "--size", "1.5G"),
        ("device", "create", "1", "x", "--cache", "255"),
        ("device", "detach", "-1"),
        ("device", "attach", "1", "0"),
        ("device", "bind", "1", "--sector-size", "1024"),
        ("dump", "x.img", "0"),
        ("umount",),
        ("umount", "mnt", "--all"),
    ],
)
def test_wrong_invocation(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_of(*words) == USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: lcfs")


def test_wrong_invocation_of_mount_and_check() -> None:
    assert usage_of("mount") == usage_of("mount", "mnt", "--cache", "x", "--bogus")
    assert usage_of("mount") == usage_of("mount", "mnt", "--device", "x") == usage_of("mount", "mnt", "--all")
    assert usage_of("mount", "--all", "--cache", "x") == usage_of("mount", "--all", "-f") == MOUNT_USAGE
    assert usage_of("mount") == MOUNT_USAGE
    assert usage_of("check") == CHECK_USAGE


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_of("--help") == 0
    assert usage_of("mount", "--help") == 0
    assert usage_of("--version") == 0
    assert capsys.readouterr().out.endswith(f"lcfs {lcfs.__version__}\n")


def test_fewer_than_four_words_are_no_fstab_line() -> None:
    assert mount_helper.looks_like(["ssd.img", "/mnt", "-o", "rw"])
    assert mount_helper.looks_like(["ssd.img", "/mnt", "-orw", "-v"])
    assert not mount_helper.looks_like(["unmount", "/mnt"])
    assert not mount_helper.looks_like(["moutn", "/mnt", "--cache", "ssd.img"])
    assert not mount_helper.looks_like(["-o", "rw", "ssd.img", "/mnt"])


def test_the_helper_says_it_as_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "mnt")
    for form in (
        lambda: command_line.main(["ssd.img", missing, "-o", "rw,dev,suid"]),
        lambda: mount_helper.main(["ssd.img", missing, "-o", "rw,user,noauto"]),
        lambda: mount_helper.main(["ssd.img", missing, "-s", "-n", "-v", "-t", "fuse.lcfs"]),
    ):
        assert form() == 32
        assert f"lcfs mount: mount point {missing} does not exist" in capsys.readouterr().err
    assert mount_helper.main(["ssd.img", missing, "-f", "-o", "ro"]) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--cache", "0=ssd.img"), "cache id '0'"),
        (("--cache", "-1=ssd.img"), "cache id '-1'"),
        (("--cache", "1=a", "--cache", "1=b"), "cache id 1 is given twice"),
        (("--cache", "a", "--device", "2=b", "--device", "2=c"), "disk id 2 is given twice"),
        (("--cache", "a", "--cache-size", "0"), "size '0'"),
        (("--cache", "a", "-o", "bogus"), "mount option 'bogus'"),
    ],
)
def test_a_refused_mount(
    words: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnt").mkdir()
    assert command_line.main(["mount", "mnt", *words]) == 32
    assert reason in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["mnt"]


@pytest.mark.parametrize("words", [["--help"], ["status"], ["status", "--json"], ["umount", "/"], ["mount"]])
def test_light_verbs_load_nothing_heavy(words: list[str]) -> None:
    script = f"""
import sys
from lcfs.commands import main
try:
    main({words!r})
except SystemExit:
    pass
print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == ""
