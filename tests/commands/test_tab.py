# SPDX-License-Identifier: GPL-2.0-or-later
"""The tab file: what it says, what is refused and how, and real mounts from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcfs.commands.failure import CommandFailed
from lcfs.commands.mounts import mount_at
from lcfs.commands.tab import find, read_tab
from tests.mount.harness import Lcfs

GOOD = """
[mount.vm]
at = "/mnt/vm"
cache_size = "20G"
options = ["allow_other", "mode=0660"]
metrics = "127.0.0.1:9350"
log = "/var/log/lcfs-vm.log"
auto = false
[[mount.vm.cache]]
image = "/ssd/vm.img"
id = 3
[[mount.vm.disk]]
path = "/slow/vm.raw"
id = 7
size = "100G"
cache = 3
name = "vm"

[mount.db]
at = "/mnt/db/"
[[mount.db.cache]]
image = "/ssd/db.img"
"""


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_everything_it_can_say(tmp_path: Path) -> None:
    vm, db = read_tab(written(tmp_path / "tab", GOOD))
    assert (vm.name, vm.mountpoint, vm.cache_size, vm.auto) == ("vm", "/mnt/vm", 20 << 30, False)
    assert (vm.options, vm.log) == (("allow_other", "mode=0660", "metrics=127.0.0.1:9350"), "/var/log/lcfs-vm.log")
    (cache,), (disk,) = vm.caches, vm.devices
    assert (cache.path, cache.id) == ("/ssd/vm.img", 3)
    assert (disk.path, disk.id, disk.size, disk.cache, disk.name) == ("/slow/vm.raw", 7, 100 << 30, 3, "vm")
    assert (db.mountpoint, db.cache_size, db.auto, db.devices, db.options) == ("/mnt/db", 256 << 20, True, (), ())


def test_a_mount_is_found_by_name_and_by_place(tmp_path: Path) -> None:
    tab = written(tmp_path / "tab", GOOD)
    assert find(tab, "vm").name == find(tab, "/mnt/vm/").name == "vm"
    with pytest.raises(CommandFailed, match=r"nix is not in the tab file .*, which has vm, db"):
        find(tab, "nix")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[mount.vm]", "[mounts.vm]", "mounts is not known; known are mount"),
        ("[mount.vm]", "x", "is not TOML"),
        ("[mount.vm]", '[mount."a b"]', "'a b' is no name"),
        ('at = "/mnt/vm"', "", "mount.vm.at is missing"),
        ('at = "/mnt/vm"', "at = 5", "mount.vm.at is 5; write a text"),
        ('at = "/mnt/vm"', 'at = "mnt"', "mount.vm.at is 'mnt'; write a path that begins with a slash"),
        ('at = "/mnt/vm"', 'at = "/mnt/db"', "'/mnt/db', and so is one of mount.vm"),
        ('image = "/ssd/vm.img"', 'image = "/ssd/db.img"', "mount.db.cache is '/ssd/db.img', and so is one of mount.vm"),
        ('"20G"', '"20X"', "mount.vm.cache_size: size '20X' is not a number of bytes"),
        ('"20G"', "true", "mount.vm.cache_size: size True"),
        ('"mode=0660"', '"mode=9"', "mount.vm.options: mount option mode=9 is not octal"),
        ('["allow_other", "mode=0660"]', "7", "mount.vm.options is 7"),
        ("auto = false", 'auto = "no"', "mount.vm.auto is 'no'; write true or false"),
        ("auto = false", "other = 1", "mount.vm.other is not known; known are at, auto, cache"),
        ("id = 3", "id = 255", "mount.vm.cache[1].id: cache id '255' is not a number from 1 to 254"),
        ("id = 3", "size = 3", "mount.vm.cache[1].size is not known; known are id, image"),
        ("id = 7", "id = true", "mount.vm.disk[1].id: disk id 'True' is not"),
        ('size = "100G"', "size = 0", "mount.vm.disk[1].size: size '0' is out of range"),
        ('name = "vm"', 'name = ""', "mount.vm.disk[1].name is ''"),
        ("[[mount.db.cache]]", "[[mount.db.disk]]", "mount.db.disk[1].image is not known"),
        ("[[mount.db.cache]]", "[mount.db.cache]", "mount.db.cache is {'image': '/ssd/db.img'}; write tables"),
        ('[[mount.db.cache]]\nimage = "/ssd/db.img"', "", "mount.db names no cache"),
    ],
)
def test_refused_with_file_key_and_value(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    assert old in GOOD
    tab = written(tmp_path / "tab", GOOD.replace(old, new, 1))
    with pytest.raises(CommandFailed) as refused:
        read_tab(tab)
    assert str(refused.value).startswith(f"tab file {tab}")
    assert sentence in str(refused.value)


def test_a_tab_file_that_is_not_there() -> None:
    with pytest.raises(CommandFailed, match=r"tab file /no/tab cannot be read: No such file or directory"):
        read_tab("/no/tab")


def tab_of(lcfs: Lcfs, *names: str, at: str = "") -> None:
    here = lcfs.directory
    text = ""
    for name in names:
        text += f'[mount.{name}]\nat = "{here}/{name}"\nlog = "{here}/{name}.log"\n'
        text += f'[[mount.{name}.cache]]\nimage = "{here}/{name}.img"\n'
        (here / name).mkdir(exist_ok=True)
    (here / "tab").write_text(text)


def test_a_machine_is_brought_up_and_down(lcfs: Lcfs) -> None:
    tab_of(lcfs, "one", "two")
    lcfs.run("mount", "--all", "--tab", "tab")
    assert all((lcfs.directory / name / "devices/1").exists() for name in ("one", "two"))
    again = lcfs.run("mount", "--all", "--tab", "tab")
    assert (again.stdout, again.stderr) == ("", "")
    lcfs.run("umount", "--all", "--tab", "tab")
    assert all(mount_at(str(lcfs.directory / name)) is None for name in ("one", "two"))
    lcfs.run("umount", "--all", "--tab", "tab")


def test_one_that_fails_stops_no_other(lcfs: Lcfs) -> None:
    tab_of(lcfs, "bad", "good", "worse")
    for name in ("bad", "worse"):
        (lcfs.directory / f"{name}.img").write_text("not a cache image\n" * 1000)
    done = lcfs.run("mount", "--all", "--tab", "tab", check=False)
    assert done.returncode == 64
    assert done.stderr.count("is not an lcfs cache image and is left as it is") == 2
    assert mount_at(str(lcfs.directory / "good")) is not None
    assert lcfs.run("mount", "--all", "--tab", "tab", check=False).returncode == 32
    with open(lcfs.directory / "good/devices/1", "rb"):
        busy = lcfs.run("umount", "--all", "--tab", "tab", check=False)
        assert (busy.returncode, busy.stderr.count("good: ")) == (32, 1)
    lcfs.run("umount", "good", "--tab", "tab")


def test_one_mount_by_its_name(lcfs: Lcfs) -> None:
    tab_of(lcfs, "one", "two")
    lcfs.run("mount", "two", "--tab", "tab")
    assert mount_at(str(lcfs.directory / "one")) is None
    assert mount_at(str(lcfs.directory / "two")) is not None
    missing = lcfs.run("mount", "three", "--tab", "tab", check=False)
    assert missing.returncode == 32
    assert "three is not in the tab file tab, which has one, two" in missing.stderr
    lcfs.run("umount", lcfs.directory / "two")
