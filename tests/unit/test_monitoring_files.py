"""What Prometheus and Grafana are told to ask for is what workers tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.store.operations.health import Backlog
from workers.observe.metrics import QUEUE, REGISTRY

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bdspex_\w+")
RULES = DEPLOY / "prometheus" / "rules.yml"
#: What Prometheus itself adds, and what functions need.
ADDED = {"job", "instance", "le", "alertname", "alertstate"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, set[str]]]:
    """The name of each series, and its labels."""
    QUEUE.note([Backlog("qa", 1, 0, 1.0, 1.0, paused=False, limited=False)], workers=1)
    found: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        labels: set[str] = set(getattr(REGISTRY._names_to_collectors.get(family.name), "_labelnames", ()))
        for sample in family.samples:
            labels |= set(sample.labels)
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels | ADDED
    yield found
    QUEUE.forget()


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it is."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "dspex.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if "definition" in variable:
            yield variable["name"], variable["definition"]
    for expression in re.findall(r"expr: (?:>-\n)?((?:.+\n)(?:          .+\n)*)", RULES.read_text()):
        yield "rules.yml", expression


def test_every_series_and_label_that_is_queried_exists(names: dict[str, set[str]]) -> None:
    asked = list(expressions())
    assert len(asked) > 40
    unknown = {name for _, expression in asked for name in NAME.findall(expression)} - set(names)
    assert unknown == set()
    for place, expression in asked:
        for name, matchers in re.findall(r"(dspex_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))
            assert used <= names[name], f"{place}: {name} has no {used - names[name]}"
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            known = set().union(*(names[name] for name in NAME.findall(expression)), ADDED, {"program"})
            assert {label.strip() for label in group.split(",")} <= known, place


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "dspex.json").read_text())
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [(place["x"] + x, place["y"] + y) for place in places for x in range(place["w"]) for y in range(place["h"])]
    assert len(cells) == len(set(cells)), "no panel covers another"


def test_every_alert_says_what_to_do_and_how_bad_it_is() -> None:
    rules = RULES.read_text().split("      - alert: ")[1:]
    assert len(rules) >= 10
    for rule in rules:
        assert all(part in rule for part in ("severity: ", "summary: ", "description: ")), rule.split("\n")[0]
