"""``dspy.Signature`` classes, recognised by their shape."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal

import pytest

from dspex.errors import SignatureTypeError
from dspex.signatures import signature

dspy: Any = pytest.importorskip("dspy")


def test_a_dspy_class_is_equal_to_its_text() -> None:
    class Triage(dspy.Signature):  # type: ignore[misc]
        """Route a support ticket."""

        ticket: str = dspy.InputField(desc="the customer's message", max_length=4000)
        history: list[str] | None = dspy.InputField()
        photo: dspy.Image = dspy.InputField()
        limit: int = dspy.InputField(default=5, ge=1, le=10)
        queue: Literal["billing", "bug"] = dspy.OutputField()
        score: float = dspy.OutputField(gt=0.5)

    assert signature(Triage) == signature(
        """
        signature Triage "Route a support ticket.":
            :string(max_length=4000) ticket "the customer's message", :optional(:list(:string)) history,
            :image photo, :integer(min=1, max=10) limit = 5
            -> :enum("billing", "bug") queue, :float(min=0.5000000000000001) score
        """
    )


@pytest.mark.parametrize(
    "text",
    [
        "question -> answer",
        "question, context: list[str] -> answer: str, confidence: float",
        "a: dict[str, int], b: Optional[int] -> c: Literal['x', 'y'], d: bool",
        "a: Annotated[int, Field(gt=3)] -> b: Union[int, str]",
        "image: dspy.Image, history: dspy.History -> text",
        "-> joke",
        "a: (int | str) | None, b: list[(int | float)] -> c: (str), d: (int | None) | str",
        "a: tuple[int, str], b: set[str] -> c: frozenset[int], d: tuple[str, str], e: tuple, f: set",
        "code: dspy.Code -> thought: dspy.Reasoning",
    ],
)
def test_a_dspy_string_means_what_dspy_makes_of_it(text: str) -> None:
    ours = signature(text)
    theirs = signature(dspy.Signature(text))
    assert theirs.fingerprint == ours.fingerprint


def test_tools_are_no_values() -> None:
    class Agent(dspy.Signature):  # type: ignore[misc]
        tools: list[dspy.Tool] = dspy.InputField()
        calls: dspy.ToolCalls = dspy.OutputField()

    with pytest.raises(SignatureTypeError, match="tools that the program names in `tools`, or that a module of your"):
        signature(Agent)
    assert [field.name for field in signature(Agent.delete("tools")).output_fields] == ["calls"]


def test_types_that_json_cannot_hold_are_refused() -> None:
    class Bad(dspy.Signature):  # type: ignore[misc]
        points: complex = dspy.InputField()
        answer: str = dspy.OutputField()

    with pytest.raises(SignatureTypeError, match="field 'points' of Bad: unknown type"):
        signature(Bad)


def test_compiling_text_imports_neither_dspy_nor_pydantic() -> None:
    code = (
        "import sys; from dspex.signatures import signature; s = signature('a -> b: list[float]');"
        "s.validate_outputs({'b': ['1']}); s.json_schema('outputs', 'openai');"
        "print([m for m in ('dspy', 'pydantic', 'litellm', 'celery', 'rich', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
