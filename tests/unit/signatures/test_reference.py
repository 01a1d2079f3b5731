"""The reference page lists every type and constraint as the registry has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspex.signatures import signature
from dspex.signatures.types.constraints import ORDER
from dspex.signatures.types.type_registry import SPECS
from dspex.signatures.values.value_checks import FORMATS

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "signatures.md").read_text()
BUILT_IN = [spec for spec in SPECS.values() if not spec.custom]


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: str(spec.name))
def test_each_type_has_its_row(spec: object) -> None:
    name, doc, constraints = (getattr(spec, part) for part in ("name", "doc", "constraints"))
    listed = " ".join(f"`{constraint}`" for constraint in ORDER if constraint in constraints) or "–"
    assert f"| `:{name}` | {doc} | {listed} |" in PAGE


def test_each_constraint_and_format_is_explained() -> None:
    table = PAGE.partition("### Constraints")[2]
    for name in (*ORDER, *FORMATS):
        assert f"`{name}`" in table


def test_the_first_example_compiles() -> None:
    text = re.search(r"signature\(\"{3}(.*?)\"{3}\)", PAGE, re.DOTALL)
    assert text is not None
    triage = signature(text.group(1))
    assert triage.validate_inputs({"ticket": "I was charged twice."})["max_words"] == 5
    assert triage.check_outputs({"queue": "Billing", "confidence": "92%"}).values == {
        "queue": "billing",
        "confidence": 0.92,
    }
