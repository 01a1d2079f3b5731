"""Programs become DSPy modules, and a state that was made for another signature is refused."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from dspex.errors import ProgramError
from dspex.program.program import Program
from workers.adapters.dspy.modules import build_module
from workers.adapters.dspy.modules.returned_values import traced_calls

QA = ':string question, :string context -> :enum("yes", "no") answer'
DEMO = {"question": "Is it wet?", "context": "Rain.", "answer": "yes"}


def program(**settings: Any) -> Program:
    return Program("qa", settings.pop("signature", QA), model="openai/test", **settings)


def saved(module: dspy.Module) -> dict[str, Any]:
    """The module's state as a file holds it."""
    state: dict[str, Any] = json.loads(json.dumps(module.dump_state()))
    return state


@pytest.mark.parametrize("module", ["predict", "chain_of_thought"])
def test_an_optimised_state_is_applied(module: str) -> None:
    optimised = build_module(program(module=module), "json-schema")
    (predictor,) = optimised.predictors()
    predictor.signature = predictor.signature.with_instructions("Answer like a judge.")
    predictor.demos = [dspy.Example(**DEMO)]
    predictor.lm = dspy.LM("openai/another", api_key="never")
    (restored,) = build_module(program(module=module, state=saved(optimised)), "json-schema").predictors()
    assert restored.signature.instructions == "Answer like a judge."
    assert [dict(demo) for demo in restored.demos] == [DEMO]
    assert restored.lm is None  # the program names the model


def test_examples_alone_are_a_state() -> None:
    (predictor,) = build_module(program(state={"demos": [DEMO]}), "json-schema").predictors()
    assert predictor.demos == [DEMO]


def test_a_state_with_the_files_metadata_fits() -> None:
    state = saved(build_module(program(module="chain_of_thought"), "json-schema"))
    build_module(program(module="chain_of_thought", state={**state, "metadata": {"dspy": "3.4"}}), "json-schema")


@pytest.mark.parametrize(
    ("of", "module", "why"),
    [
        (":string question -> :string answer", "predict", "describes 2 fields of"),
        (
            ':string subject, :string context -> :enum("yes", "no") answer',
            "predict",
            "field 1 of predictor 'self' is 'Subject:'",
        ),
        (QA, "chain_of_thought", "predictors 'predict'"),
    ],
)
def test_a_state_for_another_signature_is_refused(of: str, module: str, why: str) -> None:
    state = saved(build_module(program(signature=of, module=module), "json-schema"))
    with pytest.raises(ProgramError, match=why) as caught:
        build_module(program(state=state), "json-schema")
    assert caught.value.code == "state_mismatch"


@pytest.mark.parametrize(
    "state", [{"demos": [{"subject": "x"}]}, {"demos": "x"}, {"demos": [], "x": 1}, {"a": {}, "b": {}}]
)
def test_a_state_that_is_none_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ProgramError):
        build_module(program(state=state), "json-schema")


def test_a_field_with_a_name_that_dspy_keeps_has_its_examples() -> None:
    of = ":string config -> :string answer"
    built = build_module(program(signature=of, state={"demos": [{"config": "a", "answer": "b"}]}), "json-schema")
    assert built.predictors()[0].demos == [{"config_": "a", "answer": "b"}]


def test_reasoning_that_the_signature_declares_is_asked_for_first() -> None:
    of = ":string question -> :string answer, :string(max_length=200) reasoning"
    (predictor,) = build_module(program(signature=of, module="chain_of_thought"), "json-schema").predictors()
    assert list(predictor.signature.output_fields) == ["reasoning", "answer"]
    assert "200" in predictor.signature.output_fields["reasoning"].json_schema_extra["desc"]


def test_what_contains_itself_is_left_out_of_a_trace() -> None:
    circular: list[Any] = []
    circular.append(circular)
    prediction = dspy.Prediction(answer="x", more=circular)
    assert traced_calls([], prediction) == {"calls": [], "prediction": {"answer": "x"}}
