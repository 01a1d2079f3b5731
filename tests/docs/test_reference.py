"""The generated reference pages are up to date."""

from __future__ import annotations

import pytest

from docs.generate.__main__ import PAGES, REFERENCE


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_not_stale(name: str) -> None:
    made = PAGES[name]()
    assert (REFERENCE / name).read_text() == made, "run `make docs-reference` and commit the page"
