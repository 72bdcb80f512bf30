# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/troubleshooting.md has every sentence of the source and no other, and its remedies can be typed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from lcfs.commands.command_line import build_parser
from tests.docs.sentences import Sentence, sentences

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()
LISTED = [line[4:] for line in PAGE.splitlines() if line.startswith("    ")]
FOUND = [sentence for sentence in sentences() if not sentence.usage]


def commands_of(page: str) -> list[str]:
    """What stands in backticks in the running text of a page and begins with `lcfs`, followed by a word."""
    running = "\n".join(line for line in page.splitlines() if not line.startswith("    "))
    return [" ".join(command.split()) for command in re.findall(r"`(lcfs\s[^`]*)`", running)]


def parses(command: str) -> str | None:
    """What the grammar of the command line has against a command; None: nothing."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            build_parser().parse_args(shlex.split(command)[1:])
        except SystemExit:
            return said.getvalue()
    return None


def test_the_source_is_read() -> None:
    """One of each kind, so that a collector that finds nothing is noticed."""
    texts = {sentence.text for sentence in FOUND}
    assert texts >= {
        "… is in use by an lcfs (it holds the lock); release it there first",
        "no lcfs is mounted; mount one with: lcfs mount MNT --cache IMAGE",
        "degraded … damaged lines on …; run `lcfs check`",
        "it was removed",
        "write to … failed (…), attempt …",
        "called off; nothing is mounted",
    }


def test_every_text_of_the_page_is_said() -> None:
    assert [text for text in LISTED if text not in {sentence.text for sentence in FOUND}] == []


def test_every_sentence_has_an_entry() -> None:
    assert [sentence for sentence in FOUND if sentence.text not in LISTED] == []


def test_a_text_has_one_entry() -> None:
    assert sorted(text for text in set(LISTED) if LISTED.count(text) > 1) == []


def test_every_block_of_texts_has_a_remedy() -> None:
    blocks = re.split(r"\n\n", PAGE)
    for block, following in zip(blocks, [*blocks[1:], ""], strict=True):
        if block.startswith("    "):
            assert re.match(r"[A-Z`]", following), block


@pytest.mark.parametrize("page", ["troubleshooting.md", "operations.md", "howto.md"])
def test_commands_in_the_text_can_be_typed(page: str) -> None:
    commands = commands_of((DOCS / page).read_text())
    assert commands
    assert {command: against for command in commands if (against := parses(command))} == {}


def test_what_is_wrong_is_noticed() -> None:
    assert parses("lcfs cache mend 1")
    assert parses("lcfs umount --gently MNT")


def test_usage_is_told_by_its_exit_code() -> None:
    """A sentence is left out for its code, and for nothing else."""
    left_out = {sentence for sentence in sentences() if sentence.usage}
    assert left_out
    assert all(isinstance(sentence, Sentence) and sentence.place.startswith("commands") for sentence in left_out)
