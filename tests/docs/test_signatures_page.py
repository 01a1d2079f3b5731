"""docs/reference/signatures.md: the types of DSPy's strings, and the results that its first example shows."""

from __future__ import annotations

import ast
import re

import pytest

import dspex
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "reference" / "signatures.md"
STRINGS = PAGE.read_text().partition("**DSPy strings**")[2].partition("**Classes**")[0]


def named(words: str) -> list[str]:
    """The names in the code of a part of a sentence."""
    return [name for code in re.findall(r"`([^`]+)`", words) for name in code.split()]


def test_the_types_of_strings_are_supported_or_refused_as_the_page_says() -> None:
    supported = named(STRINGS.partition("Supported are")[2].partition(", `Optional")[0])
    lists = named(STRINGS.partition("dspy.Code`.")[2].partition("become")[0])
    refused = named(STRINGS.partition("types that JSON cannot hold")[2].partition(". A class")[0])
    assert len(supported) > 15
    assert lists
    for name in (*supported, "dspy.Code", *lists):
        made = dspex.signature(f"question -> answer: {name}")
        assert made.output_fields[0].type.name == "list" or name not in lists
    assert refused
    for name in refused:
        with pytest.raises(dspex.SignatureTypeError):
            dspex.signature(f"question -> answer: {name}")


def test_the_first_example_shows_what_it_returns() -> None:
    example = next(block.text for block in blocks(PAGE) if block.language == "python")
    names: dict[str, object] = {}
    exec(example, names)
    shown = re.findall(r"^(triage\..+)\n# (.+)$", example, re.MULTILINE)
    assert len(shown) == 2
    for called, result in shown:
        assert eval(called, names) == ast.literal_eval(result)
