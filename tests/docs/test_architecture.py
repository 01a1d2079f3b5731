"""The map of the code in docs/explanation/architecture.md has every module on it."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.pages import ROOT


@pytest.mark.parametrize("package", ["dspex", "workers"])
def test_the_map_is_whole(package: str) -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    begin = text.index(f"`{package}/`:\n")
    named = text[begin : text.index("\n\n", text.index("|---|", begin))] + text[text.index("Beside them") :]
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("_") and path.name != "py.typed"
    }
    assert {name for name in there if f"{name}`" not in named} == set()


def test_the_picture_of_the_layers_is_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    wanted = [name.strip().removeprefix("operations.") for layer in layers for name in layer.split("|")]
    picture = (ROOT / "docs" / "explanation" / "layers.svg").read_text()
    drawn = re.findall(r'rx="6"/><text class="name"[^>]*>([^<]+)<', picture)
    assert [name.removesuffix(".py") for name in drawn] == wanted
