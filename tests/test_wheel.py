# SPDX-License-Identifier: GPL-2.0-or-later
"""What an installed wheel brings besides the package: man pages, completions, units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcfs.commands import command_line

TOP = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that the wheel of this checkout was installed in."""
    made = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", made, TOP], check=True, timeout=100)
    (wheel,) = made.glob("lcfs-*.whl")
    words = ["install", "--no-deps", "--no-index", "--ignore-installed", "--no-warn-script-location"]
    subprocess.run([*pip, *words, "--prefix", made / "prefix", wheel], check=True, timeout=100)
    return made / "prefix"


def test_man_pages_and_units(installed: Path) -> None:
    for source, place in (("docs/man", "share/man/man8"), ("docs/man5", "share/man/man5"), ("systemd", "lib/systemd/system")):
        assert [path.name for path in sorted((installed / place).iterdir())] == sorted(
            path.name for path in (TOP / source).iterdir()
        )
    assert {"lcfs", "mount.lcfs"} <= {path.name for path in (installed / "bin").iterdir()}


@pytest.mark.parametrize(
    "place",
    [
        "share/bash-completion/completions/lcfs",
        "share/zsh/site-functions/_lcfs",
        "share/fish/vendor_completions.d/lcfs.fish",
    ],
)
def test_completions_know_every_verb_and_option(place: str, installed: Path) -> None:
    text = (installed / place).read_text()
    for verb in (*command_line.VERBS, *command_line.CACHE_VERBS, *command_line.DEVICE_VERBS):
        assert verb.NAME in text
    for option in ("drain", "pid-file", "json"):
        assert option in text


def test_bash_takes_its_completions(installed: Path) -> None:
    script = f"""
        . {installed}/share/bash-completion/completions/lcfs
        COMP_WORDS=(lcfs um); COMP_CWORD=1; COMPREPLY=()
        $(complete -p lcfs | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["umount"], "")


def test_every_page_can_be_read_with_man(installed: Path) -> None:
    pages = sorted((installed / "share/man").glob("man*/*"))
    for page in pages:
        text = page.read_text()
        if ".so man8/" in text:
            target = text.partition(".so ")[2].strip()
            assert (installed / "share/man" / target).is_file()
