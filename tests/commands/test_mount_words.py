# SPDX-License-Identifier: GPL-2.0-or-later
"""The words behind --cache and --device."""

import os
from pathlib import Path

import pytest

from lcfs.commands.mount_words import CacheWord, DeviceWord, parse_cache, parse_device, require_distinct


@pytest.fixture(autouse=True)
def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_caches() -> None:
    here = os.getcwd()
    assert parse_cache("ssd.img") == CacheWord(f"{here}/ssd.img")
    assert parse_cache("3=ssd.img") == CacheWord(f"{here}/ssd.img", 3)
    assert parse_cache("254=/dev/sdb") == CacheWord("/dev/sdb", 254)
    assert parse_cache("./a=b") == CacheWord(f"{here}/a=b"), "a slash before the = makes it all path"
    assert parse_cache("1=a=b") == CacheWord(f"{here}/a=b", 1)


@pytest.mark.parametrize("word", ["0=x", "255=x", "-1=x", "abc=x", "=x", "1=", "", "1.0=x", " 1=x", "1=a\nb"])
def test_caches_that_are_none(word: str) -> None:
    with pytest.raises(ValueError, match="cache "):
        parse_cache(word)


def test_devices() -> None:
    here = os.getcwd()
    assert parse_device("d.img") == DeviceWord(f"{here}/d.img")
    assert parse_device("2=d.img,size=3G,cache=0,name=vm disk") == DeviceWord(
        f"{here}/d.img", id=2, size=3 << 30, cache=0, name="vm disk"
    )
    assert parse_device("d.img,name=x,size=512") == DeviceWord(f"{here}/d.img", size=512, name="x"), "in any order"
    assert parse_device("a,b.img,cache=254") == DeviceWord(f"{here}/a,b.img", cache=254), "a comma may be in the path"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("d.img,siez=1G", "unknown option 'siez'"),
        ("d.img,siez=1G,cache=1", "unknown option 'siez'"),
        ("d.img,size=1G,size=2G", "size= twice"),
        ("d.img,size=", "size ''"),
        ("d.img,size=0", "size '0'"),
        ("d.img,cache=255", "cache id '255'"),
        ("d.img,cache=-1", "cache id '-1'"),
        ("0=d.img", "disk id '0'"),
        ("255=d.img", "disk id '255'"),
        ("abc=d.img", "write ./abc=d.img if that is the name of a file"),
        ("2=", "names no usable path"),
        (",size=1G", "names no usable path"),
        ("", "names no usable path"),
    ],
)
def test_devices_that_are_none(word: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_device(word)
    assert reason in str(refused.value)


def test_an_id_is_given_once() -> None:
    require_distinct([1, None, 2, None], what="disk")
    with pytest.raises(ValueError, match="disk id 2 is given twice"):
        require_distinct([2, 1, 2], what="disk")
