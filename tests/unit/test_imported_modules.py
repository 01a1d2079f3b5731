"""The modules whose setup functions a program needs are those that its module imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from workers.adapters.imported_modules import imported_by

MODULES = {
    "__init__": "",
    "index": "",
    "other": "",
    "sub.__init__": "from .. import index",
    "sub.leaf": "",
    "absolute": "import json, desk_shop.index",
    "relative": "from .sub import leaf, leaf as again",
    "names": "from desk_shop.absolute import json",
    "within": "def build():\n    from . import other, within\n    from ... import beyond",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose modules this process has imported."""
    for name, code in MODULES.items():
        file = tmp_path.joinpath("desk_shop", *name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("index", "other", "sub.leaf", "absolute", "relative", "names", "within"):
        import_module(f"desk_shop.{name}")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "desk_shop"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("index", {""}),
        ("absolute", {"", "index"}),
        ("relative", {"", "sub", "sub.leaf", "index"}),
        ("sub.leaf", {"", "sub", "index"}),
        ("names", {"", "absolute", "index"}),
        ("within", {"", "other"}),
    ],
)
def test_what_a_module_imports_is_found(shop: None, module: str, found: set[str]) -> None:
    name = f"desk_shop.{module}"
    assert imported_by(name, ["desk_shop"]) == {name, *(f"desk_shop.{each}".rstrip(".") for each in found)}
    assert imported_by(name, ["desk"]) == set()


def test_a_module_whose_source_is_not_readable_needs_itself(shop: None, tmp_path: Path) -> None:
    (tmp_path / "desk_shop" / "absolute.py").write_text("import (")
    assert imported_by("desk_shop.absolute", ["desk_shop"]) == {"desk_shop", "desk_shop.absolute"}
