"""The adapter registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from click.testing import CliRunner

import dspex
from dspex.cli.programs.adapters_command import adapters_command
from dspex.program import adapters
from dspex.program.adapters import AdapterInfo, Capabilities
from workers.adapters import Adapters, AdapterUnavailable

PREDICT = Capabilities(modules=frozenset({"predict"}))
THIRD = AdapterInfo("third", "…", "elsewhere:Adapter", PREDICT, requires=("unheard_of",), install="third-adapter")
BUGGY = AdapterInfo("buggy", "…", f"{__name__}:Nothing", PREDICT)


def installed(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint(f"a{n}", value, "dspex.adapters") for n, value in enumerate(values)]
    monkeypatch.setattr(adapters, "entry_points", lambda group: points)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    adapters.look_again()
    yield
    adapters.look_again()


def test_the_built_in_adapters_say_what_they_can_do() -> None:
    known = dspex.adapters()
    assert set(known) == {"dspy", "direct", "scripted"}
    assert known["dspy"].capabilities.calls_models
    assert not known["scripted"].capabilities.calls_models
    assert known["direct"].capabilities.modules == {"predict"}


@pytest.mark.parametrize("name", ["dspy", "direct", "scripted"])
def test_an_implementation_is_where_the_registry_says(name: str) -> None:
    module, _, attribute = dspex.adapters()[name].implementation.partition(":")
    adapter = getattr(import_module(module), attribute)
    assert all(hasattr(adapter, method) for method in ("prepare", "execute", "close"))


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, f"{__name__}:THIRD")
    assert dspex.adapters()["third"] == THIRD


@pytest.mark.parametrize(
    ("value", "said"),
    [(f"{__name__}:installed", "is not an AdapterInfo"), ("dspex.program.adapters:DSPY", "two adapters are named")],
)
def test_a_wrong_entry_point_is_named(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setattr(adapters, "DSPY", adapters.BUILT_IN[0], raising=False)
    installed(monkeypatch, value)
    with pytest.raises(dspex.ConfigurationError, match=said):
        dspex.adapters()


def test_a_package_that_cannot_be_imported_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "nowhere_at_all:ADAPTER", f"{__name__}:THIRD")
    assert "third" in dspex.adapters()
    assert "nowhere_at_all" in adapters.unloadable()["a0"]
    with pytest.raises(dspex.ValidationError, match=r"'a0' \(nowhere_at_all:ADAPTER: ModuleNotFoundError"):
        dspex.Program("p", dspex.signature("question -> answer"), adapter="a0")


async def test_a_worker_says_what_an_adapter_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, f"{__name__}:THIRD", f"{__name__}:BUGGY", "nowhere_at_all:ADAPTER")
    made = Adapters()
    for name, said in (
        ("third", r"needs elsewhere, unheard_of, which this worker lacks: pip install 'third-adapter'"),
        ("buggy", r"tests.unit.test_registry:Nothing: AttributeError"),
        ("a2", r"nowhere_at_all:ADAPTER: ModuleNotFoundError"),
        ("unknown", r"not installed in this worker"),
    ):
        with pytest.raises(AdapterUnavailable, match=said):
            await made.get(name)


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"module": "react"}, "module"),
        ({"tools": ["package.module:function"]}, "tools"),
        ({"module_options": {"colour": "red"}}, "module_options.colour"),
        ({"model": None}, "model"),
    ],
)
def test_what_an_adapter_is_not_able_to_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], at_fault: str
) -> None:
    installed(monkeypatch, f"{__name__}:THIRD")
    given = {"model": "openai/test", "adapter": "third", **fields}
    with pytest.raises(dspex.ValidationError) as refused:
        dspex.Program("p", dspex.signature("question -> answer"), **given)
    assert [error.path for error in refused.value.errors] == [at_fault]
    assert "'third'" in str(refused.value)


def test_the_command_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, f"{__name__}:THIRD", "nowhere_at_all:ADAPTER")
    rows = json.loads(CliRunner().invoke(adapters_command, ["--json"]).stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["dspy"]["loadable"]
    assert by_name["third"]["missing"] == ["elsewhere", "unheard_of"]
    assert "ModuleNotFoundError" in by_name["a1"]["error"]
    shown = CliRunner().invoke(adapters_command)
    assert "elsewhere, unheard_of is missing: pip install 'third-adapter'" in shown.stdout
    assert "a1 cannot be loaded" in shown.stderr
