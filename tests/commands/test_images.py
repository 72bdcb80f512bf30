# SPDX-License-Identifier: GPL-2.0-or-later
"""format, check and dump on image files that nobody mounts."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from lcfs.commands import command_line
from lcfs.commands.arguments import DEFAULT_CACHE_SIZE
from lcfs.engine.disk_format import SUPERBLOCK_COPIES
from lcfs.engine.geometry import LINE

MIB = 1 << 20


class Terminal:
    """Runs verbs in this process and keeps what they said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *words: str | Path, code: int = 0) -> str:
        """Standard output of a verb that ends with `code`."""
        assert command_line.main([str(word) for word in words]) == code, self._capsys.readouterr().err
        self.said = self._capsys.readouterr()
        return self.said.out

    def refused(self, *words: str | Path, code: int = 1) -> str:
        """The sentence of a verb that ends with `code` and has printed nothing else."""
        assert self.run(*words, code=code) == ""
        assert self.said.err.count("\n") == 1
        return self.said.err

    def rows(self, *words: str | Path, code: int = 0) -> list[dict[str, Any]]:
        """A JSON listing."""
        (rows,) = json.loads(self.run(*words, "--json", code=code)).values()
        assert isinstance(rows, list)
        return rows


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def image(tmp_path: Path, terminal: Terminal) -> Path:
    path = tmp_path / "ssd.img"
    terminal.run("cache", "format", path, "--size", "4M")
    return path


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_format_creates_a_sparse_file(tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "ssd.img"
    assert terminal.run("cache", "format", path) == ""
    status = path.stat()
    assert status.st_size == DEFAULT_CACHE_SIZE
    assert status.st_blocks * 512 <= MIB, "no more than the superblock area"
    assert status.st_mode & 0o777 == 0o600
    terminal.run("cache", "format", tmp_path / "huge.img", "--size", "1T")
    assert (tmp_path / "huge.img").stat().st_size == 1 << 40
    assert terminal.rows("check", tmp_path / "huge.img")[0]["nr_segments"] == (1 << 20) - 1


def test_format_gives_an_empty_file_a_size(tmp_path: Path, terminal: Terminal) -> None:
    for size, words in ((DEFAULT_CACHE_SIZE, []), (8 * MIB, ["--size", "8M"])):
        path = tmp_path / f"{size}.img"
        path.touch()
        terminal.run("cache", "format", path, *words)
        assert path.stat().st_size == size
        terminal.run("check", path)


def test_format_takes_zeros_and_an_image_that_is_not_in_use(tmp_path: Path, terminal: Terminal, image: Path) -> None:
    before = terminal.rows("check", image)[0]["uuid"]
    terminal.run("cache", "format", image)
    assert terminal.rows("check", image)[0]["uuid"] != before
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(MIB) + os.urandom(3 * MIB))
    terminal.run("cache", "format", zeros)
    terminal.run("check", zeros)


def test_format_keeps_what_is_no_image(tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "data"
    content = os.urandom(4 * MIB)
    path.write_bytes(content)
    assert f"lcfs cache format --force {path}" in terminal.refused("cache", "format", path)
    assert "has 4194304 bytes, not 8388608" in terminal.refused("cache", "format", path, "--size", "8M")
    assert "too small" in terminal.refused("cache", "format", path, "--size", "1M", "--force")
    assert path.read_bytes() == content
    terminal.run("cache", "format", path, "--size", "8M", "--force")
    assert path.stat().st_size == 8 * MIB
    terminal.run("check", path)


def test_format_refusals_leave_nothing_behind(tmp_path: Path, terminal: Terminal, image: Path) -> None:
    assert "too small" in terminal.refused("cache", "format", tmp_path / "new", "--size", "1M")
    assert "does not exist" in terminal.refused("cache", "format", tmp_path / "no" / "where.img")
    assert "is a directory" in terminal.refused("cache", "format", tmp_path)
    (tmp_path / "empty").touch()
    assert "too small" in terminal.refused("cache", "format", tmp_path / "empty", "--size", "1M")
    (tmp_path / "half").write_bytes(bytes(512 << 10))
    assert "too small" in terminal.refused("cache", "format", tmp_path / "half")
    assert sorted(os.listdir(tmp_path)) == ["empty", "half", "ssd.img"]
    assert ((tmp_path / "empty").stat().st_size, (tmp_path / "half").stat().st_size) == (0, 512 << 10)


def test_an_image_in_use(terminal: Terminal, image: Path) -> None:
    with open(image) as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for words in (["cache", "format"], ["cache", "format", "--force"], ["cache", "format", "--force", "--size", "8M"]):
            assert "in use" in terminal.refused(*words, image)
        assert "in use" in terminal.refused("dump", image)
        assert "in use" in terminal.refused("check", image, code=8)
    assert image.stat().st_size == 4 * MIB


def test_a_fresh_image(terminal: Terminal, image: Path) -> None:
    (checked,) = terminal.rows("check", image)
    assert checked["image"] == str(image)
    assert (checked["size"], checked["nr_segments"], checked["cache_id"], checked["clean"]) == (4 * MIB, 3, 1, True)
    assert (checked["disks"], checked["records"], checked["lines"], checked["errors"]) == ([], 0, 0, [])
    assert "no damage found" in terminal.run("check", image)
    (dumped,) = terminal.rows("dump", image)
    assert (dumped["uuid"], dumped["records"], dumped["verdict"]) == (checked["uuid"], [], "end")
    assert "holds no record where segment 1 would be" in terminal.refused("dump", image, "1")


@pytest.mark.parametrize("copy", [0, 1])
def test_one_damaged_superblock_is_damage(copy: int, terminal: Terminal, image: Path) -> None:
    overwrite(image, SUPERBLOCK_COPIES[copy] + 40, b"damage")
    (checked,) = terminal.rows("check", image, code=4)
    assert checked["nr_segments"] == 3
    (error,) = checked["errors"]
    assert f"superblock copy {copy} cannot be used" in error
    assert f"{image}: DAMAGED: superblock copy {copy}" in terminal.run("check", image, code=4)
    assert terminal.rows("dump", image)[0]["errors"] == [error]


def test_two_damaged_superblocks(terminal: Terminal, image: Path) -> None:
    for offset in SUPERBLOCK_COPIES:
        overwrite(image, offset + 40, b"damage")
    (checked,) = terminal.rows("check", image, code=4)
    assert "both superblocks are damaged" in checked["errors"][0]
    assert "both superblocks are damaged" in terminal.refused("dump", image)


@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_superblock_is_repaired(copy: int, terminal: Terminal, image: Path) -> None:
    overwrite(image, SUPERBLOCK_COPIES[copy] + 40, b"damage")
    (damage,) = terminal.rows("check", image, code=4)[0]["damages"]
    assert (damage["verdict"], damage["offset"], damage["disk"]) == ("superblock-copy", SUPERBLOCK_COPIES[copy], None)
    said = terminal.run("check", "--repair", image, code=1)
    assert f"REPAIRED: superblock copy {copy} was written anew from copy {1 - copy}" in said
    assert "no damage found" in said
    (checked,) = terminal.rows("check", "--repair", image)
    assert (checked["repaired"], checked["counts"]) == ([], {})


def test_what_cannot_be_repaired_is_left_as_it_is(terminal: Terminal, image: Path) -> None:
    for offset in SUPERBLOCK_COPIES:
        overwrite(image, offset + 40, b"damage")
    before = image.read_bytes()
    terminal.run("check", "--repair", "--cut-log", image, code=4)
    assert image.read_bytes() == before
    assert "say --repair with it" in terminal.refused("check", "--cut-log", image, code=16)
    with open(image, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "in use" in terminal.refused("check", "--repair", image, code=8)
    assert image.read_bytes() == before


def test_what_cannot_be_checked(tmp_path: Path, terminal: Terminal, image: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(4 * MIB))
    (tmp_path / "small").write_bytes(b"small")
    for name, reason in (
        ("data", "is not an lcfs cache image"),
        ("small", "is not an lcfs cache image"),
        ("nowhere", "does not exist"),
        ("", "is a directory"),
    ):
        assert reason in terminal.refused("check", tmp_path / name, code=8)
        assert reason in terminal.refused("dump", tmp_path / name)
    for offset in SUPERBLOCK_COPIES:
        copy = bytearray(image.read_bytes()[offset : offset + LINE])
        copy[8] = 2
        copy[16:20] = bytes(4)
        copy[16:20] = crc32c(copy).to_bytes(4, "little")
        overwrite(image, offset, bytes(copy))
    assert "version 2 is newer" in terminal.refused("check", image, code=8)


def test_a_truncated_image_is_damage(terminal: Terminal, image: Path) -> None:
    os.truncate(image, 3 * MIB)
    assert "truncated" in terminal.rows("check", image, code=4)[0]["errors"][0]
