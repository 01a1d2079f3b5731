"""The examples of the pages about programs: they make the programs that they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

ROOT = Path(__file__).parents[2]


def run(page: str) -> dict[str, Any]:
    """What the page's Python examples, run one after the other, define."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to" / page).read_text(), re.DOTALL):
        exec(compile(code, page, "exec"), names)
    return names


def test_how_to_write_a_program() -> None:
    names = run("write-a-program.md")
    assert {names[name].module for name in ("plain", "agent", "best", "answers")} == {
        "predict", "react", "best_of_n", "support_desk.answers:AnswersFromDocuments",
    }  # fmt: skip


def test_how_to_bring_an_optimised_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples/support_desk/support_desk")
    with dspy.context(lm=DummyLM([{"queue": "delivery"}] * 3), adapter=dspy.ChatAdapter()):
        state = run("bring-an-optimised-program.md")["state"]
    assert state["demos"][0]["ticket"] == "Where is my parcel?"
