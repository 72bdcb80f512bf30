# SPDX-License-Identifier: GPL-2.0-or-later
"""Every verb has a man page, and that names every option the verb takes and no other."""

import argparse
import re
from pathlib import Path

import pytest

from lcfs.commands import command_line

MAN = Path(__file__).parent.parent.parent / "docs" / "man"

PAGES = {
    "lcfs-mount": [command_line.mount],
    "lcfs-umount": [command_line.umount],
    "lcfs-status": [command_line.status],
    "lcfs-iostat": [command_line.iostat],
    "lcfs-check": [command_line.check],
    "lcfs-dump": [command_line.dump],
    "lcfs-cache": list(command_line.CACHE_VERBS),
    "lcfs-device": list(command_line.DEVICE_VERBS),
}


def text_of(page: str) -> str:
    text = (MAN / f"{page}.8").read_text()
    return re.sub(r"\\f[BIR]|\\~", " ", text).replace("\\-", "-")


def options_of(verb: command_line.Verb) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    verb.add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_every_verb_has_a_page() -> None:
    verbs = [*command_line.VERBS, *command_line.CACHE_VERBS, *command_line.DEVICE_VERBS]
    assert [verb for page in PAGES.values() for verb in page] == verbs
    assert {path.stem for path in MAN.glob("*.8")} == {"lcfs", *PAGES}
    overview = text_of("lcfs")
    assert all(page in overview for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_every_option(page: str) -> None:
    described = text_of(page).partition(".SH DESCRIPTION")[2]
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", described, re.IGNORECASE))
    options = set().union(*map(options_of, PAGES[page]))
    assert options <= named
    foreign = {"--cache", "--foreground"} if page == "lcfs-umount" else set()
    assert {option for option in named if option.startswith("--")} <= options | foreign


@pytest.mark.parametrize("page", ["lcfs-cache", "lcfs-device"])
def test_a_group_describes_every_verb(page: str) -> None:
    described = text_of(page).partition(".SH DESCRIPTION")[2].partition(".SH OPTIONS")[0]
    for verb in PAGES[page]:
        assert f".TP\n.B {verb.NAME}\n" in described
