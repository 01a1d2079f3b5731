"""Whom Flower lets in: decided before it starts."""

from __future__ import annotations

import pytest

from dspex.errors import ConfigurationError
from dspex.settings import Settings
from dspex.settings.web_settings import flower_faults

OPEN = "127.0.0.1"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_without_a_password_it_is_for_this_machine(address: str) -> None:
    assert flower_faults(Settings.load(), address, may_be_open=True) == []
    for reachable in ("0.0.0.0", "::", "10.0.0.7", "flower.example.com"):
        (fault,) = flower_faults(Settings.load(), reachable, may_be_open=True)
        assert "DSPEX_FLOWER_PASSWORD" in fault


def test_production_wants_a_password_even_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = flower_faults(Settings.load(), OPEN, may_be_open=False)
    assert "DSPEX_FLOWER_PASSWORD" in fault
    monkeypatch.setenv("DSPEX_FLOWER_PASSWORD", "correct, horse: battery")
    assert flower_faults(Settings.load(), "0.0.0.0", may_be_open=False) == []


def test_flowers_own_ways_of_letting_people_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_AUTH", r".*@example\.com")
    assert flower_faults(Settings.load(), "0.0.0.0", may_be_open=False) == []


@pytest.mark.parametrize(("name", "value"), [("DSPEX_FLOWER_PASSWORD", "pässword"), ("DSPEX_FLOWER_USER", "a:b")])
def test_what_flower_cannot_compare_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as raised:
        Settings.load()
    assert "pässword" not in str(raised.value)
