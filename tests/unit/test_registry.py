"""The adapter registry."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint

import pytest

import dspex
from dspex import registry
from dspex.registry import AdapterInfo, Capabilities

THIRD = AdapterInfo("third", "…", "elsewhere:Adapter", Capabilities(modules=frozenset({"predict"})))


def installed(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint(f"a{n}", value, "dspex.adapters") for n, value in enumerate(values)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    registry.adapters.cache_clear()
    yield
    registry.adapters.cache_clear()


def test_the_built_in_adapters_say_what_they_can_do() -> None:
    known = dspex.adapters()
    assert set(known) == {"dspy", "scripted"}
    assert known["dspy"].capabilities.calls_models
    assert not known["scripted"].capabilities.calls_models
    assert known["dspy"].capabilities.modules == {"predict", "chain_of_thought"}


@pytest.mark.parametrize("name", ["dspy", "scripted"])
def test_an_implementation_is_where_the_registry_says(name: str) -> None:
    module, _, attribute = dspex.adapters()[name].implementation.partition(":")
    adapter = getattr(import_module(module), attribute)
    assert all(hasattr(adapter, method) for method in ("prepare", "execute", "close"))


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, f"{__name__}:THIRD")
    assert dspex.adapters()["third"] == THIRD


@pytest.mark.parametrize(
    ("value", "said"),
    [(f"{__name__}:installed", "is not an AdapterInfo"), ("dspex.registry:DSPY", "two adapters are named")],
)
def test_a_wrong_entry_point_is_named(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setattr(registry, "DSPY", registry.BUILT_IN[0], raising=False)
    installed(monkeypatch, value)
    with pytest.raises(dspex.ConfigurationError, match=said):
        dspex.adapters()
