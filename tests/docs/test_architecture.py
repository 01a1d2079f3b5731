"""The map of the code in docs/explanation/architecture.md has every module on it."""

from __future__ import annotations

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
