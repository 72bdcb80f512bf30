# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands behind -o."""

import pytest

from lcfs.commands.metrics_address import Address
from lcfs.commands.mount_options import MountOptions, parse_options


def test_what_mount_and_fstab_add_means_nothing() -> None:
    words = "rw,defaults,auto,noauto,user,users,owner,group,nofail,_netdev,relatime,dev,suid,exec,comment=x,x-gvfs-show"
    assert parse_options([words, "x-systemd.automount,X-mount.mkdir=0755,subtype=lcfs,,default_permissions"]) == (
        MountOptions()
    )


def test_own_options() -> None:
    assert parse_options(
        ["ro,nonempty", "writeback_cache,uid=1000,gid=0,mode=0640,fsname=a=b", "metrics=[::1]:9350"]
    ) == MountOptions(
        readonly=True,
        nonempty=True,
        writeback_cache=True,
        uid=1000,
        gid=0,
        mode=0o640,
        fsname="a=b",
        metrics=Address("::1", 9350),
    )


def test_what_libfuse_gets() -> None:
    assert parse_options(["allow_other,noatime", "max_read=65536"]).passed == {
        "allow_other",
        "noatime",
        "max_read=65536",
    }


def test_the_last_of_ro_and_rw_counts() -> None:
    assert parse_options(["ro,rw"]).readonly is False
    assert parse_options(["rw", "ro"]).readonly is True


@pytest.mark.parametrize(
    "word",
    [
        *("bogus", "ro=1", "allow_other=1", "uid", "uid=", "uid=root", "uid=-1", "uid=4294967295", "gid=0x1"),
        *("mode=888", "mode=1777", "mode=", "mode=-1", "rootmode=40000", "fd=3"),
    ],
)
def test_options_that_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="mount option") as refused:
        parse_options(["rw", word])
    assert word in str(refused.value)
