"""The examples of the page on answers are read as it says."""

from __future__ import annotations

import json

import pytest

import dspex
from tests.answers import read
from tests.docs.pages import ROOT, Block, blocks

EXAMPLES = [block for block in blocks(ROOT / "docs/reference/answers.md") if block.language == "answer"]


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example_is_read_as_the_page_says(block: Block) -> None:
    head, _, rest = block.text.partition("\n")
    answer, _, result = rest.partition("\n=> ")
    prompt, source, *settings = head.split(" · ")
    on_cut = settings[0].removeprefix("on_cut=") if settings else "retry"
    outcome = read(dspex.signature(source), prompt, answer, on_cut=on_cut)
    written, _, repairs = result.removesuffix("\n").partition("\n=> repaired: ")
    assert outcome.outputs == (None if written == "sent back" else json.loads(written))
    assert ", ".join(outcome.repairs) == repairs
