"""Two versions of a program side by side."""

from __future__ import annotations

import dspex
from dspex.client.improvement.program_diff import program_diff

STATE = {"predict": {"demos": [{"question": "1+1", "answer": "2"}], "signature": {"instructions": "Answer."}}}


def program(signature: str = "question -> answer", **fields: object) -> dspex.Program:
    return dspex.Program("qa", dspex.signature(signature), model="openai/gpt-4o", **fields)  # type: ignore[arg-type]


def test_instructions_demos_model_and_options_are_compared() -> None:
    after = program(temperature=0.5, state=STATE, model_options={"top_p": 0.9})
    found = {each.part: (each.before, each.after) for each in program_diff(program(), after)}
    assert found == {
        "temperature": (None, 0.5),
        "state.predict.demos[0]": (None, {"question": "1+1", "answer": "2"}),
        "state.predict.signature.instructions": (None, "Answer."),
        "model_options.top_p": (None, 0.9),
    }
    assert program_diff(after, after) == []


def test_fields_are_compared_with_what_they_break() -> None:
    found = {each.part: each for each in program_diff(program(), program("question, context -> answer: int"))}
    assert set(found) == {"inputs.context", "outputs.answer"}
    assert found["inputs.context"].before is None
    assert "required" in str(found["inputs.context"].breaks)
    assert ":integer" in str(found["outputs.answer"].after)
