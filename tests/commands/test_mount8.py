# SPDX-License-Identifier: GPL-2.0-or-later
"""mount(8) itself, in a mount namespace where /usr/sbin has nothing but its helpers: lines of fstab(5), of both types.

mount(8) looks for `mount.lcfs` and `mount.fuse3` in /sbin only, and runs them with a PATH and environment of its own.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.mount.harness import Lcfs, wait_until

pytestmark = [pytest.mark.mount, pytest.mark.loop]

BIN = Path(sys.executable).parent


def in_namespace(lcfs: Lcfs, script: str) -> str:
    """What `script` prints on stdout, run where the helpers are; whatever it mounted is gone with it."""
    helpers = lcfs.directory / "helpers"
    helpers.mkdir()
    fuse3 = Path(os.path.realpath("/sbin/mount.fuse3")).read_bytes()
    for name in ("mount.fuse3", "mount.fuse"):
        (helpers / name).write_bytes(fuse3)
    for name in ("lcfs", "mount.lcfs"):
        environment = lcfs.environment()["PYTHONPATH"]
        (helpers / name).write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(environment)} exec {BIN / name} "$@"\n')
    for helper in helpers.iterdir():
        helper.chmod(0o755)
    (lcfs.directory / "mnt").mkdir()
    (lcfs.directory / "script").write_text(
        "set -eu\n"
        f"mount --bind {helpers} /usr/sbin\n"
        "trap 'umount -l mnt 2>/dev/null || true' EXIT\n"
        "unset HOME; export PATH=/usr/bin:/bin\n" + script
    )
    return lcfs.shell("unshare", "--mount", "--propagation", "private", "sh", "script").stdout


def image_free(lcfs: Lcfs) -> bool:
    return lcfs.run("check", "ssd.img", check=False).returncode == 0


@pytest.mark.parametrize("kind", ["lcfs", "fuse.lcfs"])
def test_mount_of_a_type(kind: str, lcfs: Lcfs) -> None:
    image, mountpoint = lcfs.directory / "ssd.img", lcfs.directory / "mnt"
    said = in_namespace(
        lcfs,
        f"mount -t {kind} {image} {mountpoint} -o uid=12,gid=34,mode=0640,allow_other\n"
        "stat -c '%u %g %a' mnt/devices/1\n"
        f"grep ' {mountpoint} ' /proc/self/mountinfo | sed 's/.* - //'\n"
        "printf hello | dd of=mnt/devices/1 conv=notrunc,fsync status=none\n"
        "umount mnt\n",
    )
    first, second = said.splitlines()
    assert first == "12 34 640"
    assert second.startswith(f"fuse.lcfs {image} rw,")
    assert "allow_other" in second
    wait_until(lambda: image_free(lcfs), "the daemon to let go of the image")
    assert b"hello" in (lcfs.directory / "ssd.img").read_bytes()[: 4 << 20]


def test_mount_all_of_an_fstab(lcfs: Lcfs) -> None:
    """noauto is left out, nofail forgives what is not there, a missing image without it is 64; options are dropped."""
    here = lcfs.directory
    (here / "bad.img").write_text("not a cache image\n" * 1000)
    (here / "fstab").write_text(
        f"{here}/ssd.img {here}/mnt fuse.lcfs nofail,user,_netdev,x-systemd.device-timeout=9,relatime 0 0\n"
        f"{here}/other.img {here}/other lcfs noauto 0 0\n"
        f"{here}/bad.img {here}/bad lcfs defaults 0 0\n"
    )
    for name in ("other", "bad"):
        (here / name).mkdir()
    said = in_namespace(
        lcfs,
        "code=0; mount -a -T fstab 2>err || code=$?\n"
        "echo $code\n"
        "grep -c not.an.lcfs.cache.image err\n"
        "ls mnt/devices other\n"
        "umount mnt\n",
    )
    assert said.split() == ["64", "1", "mnt/devices:", "1", "other:"]


def test_a_mount_that_fails_says_so_through_mount8(lcfs: Lcfs) -> None:
    (lcfs.directory / "ssd.img").write_text("not a cache image\n" * 1000)
    here = lcfs.directory
    said = in_namespace(lcfs, f"code=0; mount -t lcfs {here}/ssd.img {here}/mnt || code=$?; echo $code\n")
    assert said.split() == ["32"]


def test_a_mount_read_only(lcfs: Lcfs) -> None:
    lcfs.mount()
    lcfs.umount()
    here = lcfs.directory
    (here / "mnt").rmdir()
    before = (here / "ssd.img").read_bytes()
    said = in_namespace(
        lcfs,
        f"mount -t lcfs -r {here}/ssd.img {here}/mnt\n"
        "cat mnt/caches/1/state\n"
        "(echo x > mnt/devices/1) 2>/dev/null || echo refused\n"
        "umount mnt\n",
    )
    assert said.split() == ["running", "refused"]
    wait_until(lambda: image_free(lcfs), "the daemon to let go of the image")
    assert (here / "ssd.img").read_bytes() == before
