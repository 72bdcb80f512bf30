# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as files: results.json with every sample, results.md for a person, an SVG per figure."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from benchmarks import contestants
from benchmarks.bench import Bench
from benchmarks.chart import draw, quantity
from benchmarks.figure import Figure, Spread
from benchmarks.machine import Trouble, run
from benchmarks.targets import ALL, Figures


def write(bench: Bench, figures: Mapping[str, Figure], directory: Path) -> None:
    """All three into `directory`, in place of what was there."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.svg"):
        stale.unlink()
    about = machine(bench)
    for figure in figures.values():
        (directory / f"{figure.name}.svg").write_text(draw(figure))
    document = {
        "about": about,
        "figures": {name: attrs.asdict(figure) for name, figure in figures.items()},
        "targets": [
            {"what": t.what, "wanted": t.wanted, "measured": spread and attrs.asdict(spread), "verdict": t.verdict(spread)}
            for t in ALL
            for spread in (t.measured(figures),)
        ],
    }
    (directory / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "results.md").write_text(markdown(about, figures))


def machine(bench: Bench) -> dict[str, str]:
    """On what this was measured, and when."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        models = {line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")}
    versions = {
        "fio": ("fio", "--version"),
        "qemu": ("qemu-storage-daemon", "--version"),
        "nbdkit": ("nbdkit", "--version"),
        "nbdfuse": ("nbdfuse", "--version"),
    }
    return {
        "scale": bench.scale.name,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "minutes": f"{(time.monotonic() - bench.started) / 60:.1f}",
        "processors": f"{os.cpu_count()} x {', '.join(sorted(models)) or platform.machine()}",
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file system": file_system(bench.directory.parent),
        **{name: version(words) for name, words in versions.items()},
    }


def file_system(path: Path) -> str:
    """The type of the file system that holds everything."""
    return run("stat", "--file-system", "--format=%T", path).strip()


def version(words: Iterable[str]) -> str:
    """The first line it says, or that it is not there."""
    try:
        return run(*words).splitlines()[0]
    except (Trouble, FileNotFoundError, IndexError):
        return "not installed"


def markdown(about: Mapping[str, str], figures: Figures) -> str:
    """The report."""
    lines = ["# Results", ""]
    if about["scale"] != "full":
        lines += ["**A quick run: it shows that everything works; its numbers mean nothing.**", ""]
    lines += [f"- {name}: {text}" for name, text in about.items()]
    lines += ["", "Ratios are taken round by round; given are the median and, in brackets, the lowest and the highest.", ""]
    lines += ["## Targets", "", *targets_table(figures), "", "## Contestants", ""]
    lines += [f"- `{contestant.name}`: {contestant.what}" for contestant in contestants.ALL]
    for figure in figures.values():
        lines += ["", f"## {figure.title}", "", figure.how, "", f"![{figure.title}]({figure.name}.svg)", ""]
        lines += table(figure)
        if figure.cpu:
            lines += ["", "Processor time of the server, microseconds per request:", "", *table(figure, cpu=True)]
        lines += [f"\nAbsent: `{name}`, {reason}." for name, reason in figure.absent.items()]
        lines += [f"\n{note}" for note in figure.notes]
    return "\n".join(lines) + "\n"


def targets_table(figures: Figures) -> list[str]:
    """The targets and what became of them."""
    lines = ["| target | wanted | measured | |", "|---|---|---|---|"]
    for target in ALL:
        spread = target.measured(figures)
        lines.append(f"| {target.what} | {target.wanted} | {shown(spread, target.unit)} | {target.verdict(spread)} |")
    return lines


def shown(spread: Spread | None, unit: str = "") -> str:
    """Median and, where there was more than one round, the range."""
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{quantity(spread.median)}{unit}"
    return f"{quantity(spread.median)}{unit} ({quantity(spread.low)} … {quantity(spread.high)})"


def table(figure: Figure, *, cpu: bool = False) -> list[str]:
    """A row per load, a column per contestant."""
    source = figure.cpu if cpu else figure.samples
    names = list(source)
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for load, unit in figure.units.items():
        cells = [shown(Spread.of(samples)) if (samples := source[name].get(load)) else "" for name in names]
        if any(cells):
            lines.append(f"| {load}{'' if cpu else f', {unit}'} | {' | '.join(cells)} |")
    return lines
