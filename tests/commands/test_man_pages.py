# SPDX-License-Identifier: GPL-2.0-or-later
"""Every verb has a man page, and that names every option the verb takes and no other.

A verb of a group (`lcfs cache drop`) is described in the page of the group, to which a page of its own leads.
"""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lcfs.commands import command_line

MAN = Path(__file__).parent.parent.parent / "docs" / "man"
MAN5 = MAN.with_name("man5")

GROUPS = {"cache": command_line.CACHE_VERBS, "device": command_line.DEVICE_VERBS}

PAGES = {f"lcfs-{verb.NAME}": [verb] for verb in command_line.VERBS} | {
    f"lcfs-{group}": list(verbs) for group, verbs in GROUPS.items()
}

LEADS = {f"lcfs-{group}-{verb.NAME}": f"lcfs-{group}" for group, verbs in GROUPS.items() for verb in verbs}
"""Pages that are only a way to another page."""

OF_OTHERS = {"lcfs-umount": {"--cache", "--foreground"}}
"""Options that a page speaks of though its verb does not take them."""


def text_of(page: str) -> str:
    text = (MAN / f"{page}.8").read_text()
    return re.sub(r"\\f[BIR]|\\~", " ", text).replace("\\-", "-")


def options_of(verb: command_line.Verb) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    verb.add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_every_verb_has_a_page() -> None:
    assert {path.stem for path in MAN.glob("*.8")} == {"lcfs", *PAGES, *LEADS}
    overview = text_of("lcfs")
    assert [page for page in PAGES if f".BR {page} (8)" not in overview] == []


@pytest.mark.parametrize(("page", "leads_to"), LEADS.items())
def test_a_verb_of_a_group_has_a_page_that_leads_to_it(page: str, leads_to: str) -> None:
    assert (MAN / f"{page}.8").read_text().splitlines()[1:] == [f".so man8/{leads_to}.8"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_every_option(page: str) -> None:
    described = text_of(page).partition(".SH DESCRIPTION")[2]
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", described, re.IGNORECASE))
    options = set().union(*map(options_of, PAGES[page]))
    assert options <= named
    assert {option for option in named if option.startswith("--")} <= options | OF_OTHERS.get(page, set())


@pytest.mark.parametrize("page", ["lcfs-cache", "lcfs-device"])
def test_a_group_describes_every_verb(page: str) -> None:
    described = text_of(page).partition(".SH DESCRIPTION")[2].partition(".SH OPTIONS")[0]
    for verb in PAGES[page]:
        assert f".TP\n.B {verb.NAME}\n" in described


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed; install it")
@pytest.mark.parametrize("path", [*sorted(MAN.glob("*.8")), *sorted(MAN5.glob("*.5"))], ids=lambda path: path.name)
def test_a_page_is_well_formed(path: Path) -> None:
    if path.stem in LEADS:
        return  # of one line, compared above
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
