# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/grafana.json asks for what the exporter has, and can be laid out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tree.exposition import SUFFIXES, Family, read
from tests.tree.test_metrics import exercise
from tests.tree.world import TWO_DISKS, open_world

DASHBOARD = json.loads((Path(__file__).parent.parent.parent / "docs/grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
WIDTH = 24
"""Columns of Grafana's grid."""

METRIC = re.compile(r"\b((?:lcfs|process)_\w+)(?:\{([^}]*)\})?")
OF_PROMETHEUS = {"instance", "job"}
"""Labels that a scrape adds."""
OF_GRAFANA = {"__rate_interval"}


def expressions() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of each query of a panel."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


def queries() -> list[str]:
    """Everything that is asked of Prometheus."""
    return [expression for _, expression, _ in expressions()] + [v["definition"] for v in VARIABLES if v["type"] == "query"]


@pytest.fixture
async def exported(tmp_path: Path) -> dict[str, set[str]]:
    """Every name that a sample can have, with its labels."""
    async with open_world(tmp_path, TWO_DISKS) as world:
        await exercise(world)
        families = read(world.read("metrics"))
    return {name: labels for family in families.values() for name, labels in names_of(family)}


def names_of(family: Family) -> Iterator[tuple[str, set[str]]]:
    for suffix in SUFFIXES[family.kind]:
        name = family.name + suffix
        yield name, {label for sample in family.samples if sample.name == name for label in sample.labels}


async def test_every_metric_and_label_is_exported(exported: dict[str, set[str]]) -> None:
    used: set[str] = set()
    for query in queries():
        found = METRIC.findall(query)
        assert found, query
        for name, selector in found:
            assert name in exported, query
            asked = set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", selector))
            assert asked <= exported[name] | OF_PROMETHEUS, query
            used.add(name)
        together = set.union(*(exported[name] for name, _ in found)) | OF_PROMETHEUS
        for grouping in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", query):
            assert {label.strip() for label in grouping.split(",")} <= together, query
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert families == {re.sub("_(bucket|sum|count)$", "", name) for name in exported}, "a metric that no panel shows"


async def test_every_label_of_a_legend_is_in_its_query(exported: dict[str, set[str]]) -> None:
    for title, expression, legend in expressions():
        groupings = re.findall(r"\bby \(([^)]*)\)", expression)
        kept = set.union(*(exported[name] for name, _ in METRIC.findall(expression)))
        if groupings:
            kept = {label.strip() for label in ",".join(groupings).split(",")}
        assert set(re.findall(r"{{(\w+)}}", legend)) <= kept | OF_PROMETHEUS, title


def test_the_variables_are_there() -> None:
    names = [variable["name"] for variable in VARIABLES]
    assert names == ["datasource", "instance", "cache", "device", "op", "from"]
    used = set(re.findall(r"\$(\w+)", " ".join(queries()))) | set(re.findall(r"\$\{(\w+)\}", json.dumps(DASHBOARD)))
    assert used == {*names, *OF_GRAFANA}


def test_every_query_goes_to_the_chosen_source() -> None:
    asked = [each for panel in PANELS for each in [panel, *panel.get("targets", [])] if panel["type"] != "row"]
    assert {each["datasource"]["uid"] for each in [*asked, *VARIABLES[1:]]} == {"${datasource}"}


def test_every_counter_is_asked_for_its_rate() -> None:
    for title, expression, _ in expressions():
        plain = re.sub(r"(?:rate|increase)\((\w+)(?:\{[^}]*\})?\[[^]]*\]\)", "", expression)
        assert not re.search(r"_(total|bucket|sum|count)\b", plain), title


def test_panels_are_laid_out_without_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] >= 0 and 0 < place["w"] <= WIDTH - place["x"] and place["h"] > 0 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


def test_panels_have_what_grafana_expects() -> None:
    assert DASHBOARD["schemaVersion"] >= 41
    assert DASHBOARD["uid"] and DASHBOARD["title"]
    for panel in PANELS:
        assert panel["title"] and panel["type"] in {"row", "timeseries", "stat", "heatmap", "state-timeline", "table"}
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)
        assert (panel["type"] == "row") == (not references)
