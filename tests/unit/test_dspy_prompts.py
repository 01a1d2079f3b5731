"""Answers are taken apart into fields without being judged, and the compact prompt asks as the endpoint can take it."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from dspy.utils.exceptions import AdapterParseError

from dspex.signatures import signature
from workers.adapters.dspy.compact_prompt import CompactAdapter, outputs_schema
from workers.adapters.dspy.dspy_signature import dspy_signature
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt

COMPILED = signature(
    'signature rating "Rate the review.": :string review "as it was sent" -> '
    ":string(max_length=80) summary, :integer stars, :boolean sure, :map more, :optional(:float) share"
)
MADE = dspy_signature(COMPILED)
WHOLE = {"summary": "Fine.", "stars": 4, "sure": True, "more": {"a": [1]}, "share": None}


def sections(**fields: str) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in fields.items()) + "\n\n[[ ## completed ## ]]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("4.5", 4.5),
        ("True", True),
        ("true", True),
        ("null", None),
        ("None", None),
        ("{'a': [1]}", {"a": [1]}),
        ("85%", "85%"),
        ("four", "four"),
        ("", ""),
        ("```json\n4\n```", 4),
        ("[" * 10_000, "[" * 10_000),
    ],
)
def test_a_field_that_is_not_text_is_the_value_its_text_spells(text: str, value: Any) -> None:
    answer = sections(summary="4", stars=text, sure="x", more="x", share="x")
    found = ChatPrompt().parse(MADE, answer)
    assert found["stars"] == value
    assert found["summary"] == "4"  # text stays text


def test_text_is_not_touched() -> None:
    text = '  "quoted" 🐈 \n\n{"not": "json"}'
    assert ChatPrompt().parse(MADE, sections(**{**dict.fromkeys(WHOLE, "x"), "summary": text}))["summary"] == (
        '"quoted" 🐈 \n\n{"not": "json"}'
    )


@pytest.mark.parametrize("text", ["null", "None"])
def test_null_is_text_only_where_there_must_be_some(text: str) -> None:
    made = dspy_signature(signature("signature a: :string x -> :string must, :optional(:string) may"))
    assert ChatPrompt().parse(made, sections(must=text, may=text)) == {"must": text, "may": None}
    assert JsonPrompt().parse(made, json.dumps({"must": text, "may": text})) == {"must": text, "may": text}


@pytest.mark.parametrize("prompt", [JsonPrompt(), CompactAdapter()], ids=["json", "compact"])
@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(WHOLE),
        f"```json\n{json.dumps(WHOLE)}\n```",
        f"Here it is:\n{json.dumps(WHOLE)}",
        json.dumps({**WHOLE, "extra": 1}),
    ],
    ids=["plain", "fenced", "after words", "with more"],
)
def test_an_object_is_found_in_an_answer(prompt: dspy.Adapter, answer: str) -> None:
    assert prompt.parse(MADE, answer) == WHOLE


@pytest.mark.parametrize("prompt", [ChatPrompt(), JsonPrompt(), CompactAdapter()], ids=["chat", "json", "compact"])
@pytest.mark.parametrize(
    "answer",
    ["", "sorry", "[1, 2]", '{"summary": "only"}', sections(summary="only"), "{" * 10_000, json.dumps(WHOLE)[:-1]],
)
def test_an_answer_without_all_fields_is_not_one(prompt: dspy.Adapter, answer: str) -> None:
    with pytest.raises(AdapterParseError):
        prompt.parse(MADE, answer)


def test_an_optional_field_may_be_left_out() -> None:
    required = {name: value for name, value in WHOLE.items() if name != "share"}
    assert JsonPrompt().parse(MADE, json.dumps(required)) == WHOLE


def test_what_dspys_modules_add_is_read_their_way() -> None:
    thinking = dspy.ChainOfThought(MADE).predict.signature
    found = ChatPrompt().parse(thinking, sections(reasoning="because", **dict.fromkeys(WHOLE, "x")))
    assert found["reasoning"] == "because"


def test_the_compact_prompt_reads_like_a_short_order() -> None:
    examples = [{"review": "Bad.", "summary": "Bad.", "stars": 1}, {"review": "Ok.", **WHOLE}]
    messages = CompactAdapter().format(MADE, examples, {"review": "Great\n«stuff»"})
    assert messages[0]["content"] == "Rate the review.\nreview: as it was sent"
    assert [message["role"] for message in messages[1:]] == ["user", "assistant", "user", "assistant", "user"]
    assert [json.loads(messages[place]["content"]) for place in (2, 4)] == [{"summary": "Bad.", "stars": 1}, WHOLE]
    assert messages[-1]["content"] == "Great\n«stuff»"


def test_several_inputs_are_given_by_name() -> None:
    made = dspy_signature(signature(":string a, :list(:integer) b, :optional(:string) c -> :string d"))
    messages = CompactAdapter().format(made, [], {"a": "x", "b": [1, 2], "c": None})
    assert messages[-1]["content"] == "a: x\nb: [1, 2]"


class Remembers(DummyLM):  # type: ignore[misc]
    """A model that says what it was asked; its endpoint takes the given settings."""

    def __init__(self, params: set[str], takes_schema: bool) -> None:
        super().__init__([{}])
        self._params, self._takes_schema = params, takes_schema

    @property
    def supported_params(self) -> set[str]:
        return self._params

    @property
    def supports_response_schema(self) -> bool:
        return self._takes_schema

    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> list[str]:
        self.asked = {"system": messages[0]["content"], **kwargs}
        return [json.dumps(WHOLE)]


@pytest.mark.parametrize(
    ("params", "takes_schema", "sent"),
    [({"response_format"}, True, "json_schema"), ({"response_format"}, False, "json_object"), (set(), False, None)],
)
def test_the_schema_is_asked_for_as_the_endpoint_takes_it(
    params: set[str], takes_schema: bool, sent: str | None
) -> None:
    lm = Remembers(params, takes_schema)
    with dspy.context(lm=lm, adapter=CompactAdapter(), disable_history=True):
        prediction = dspy.Predict(MADE)(review="Fine.")
    assert dict(prediction) == WHOLE
    assert lm.asked.get("response_format", {}).get("type") == sent
    assert (json.dumps(outputs_schema(MADE)) in lm.asked["system"]) is (not takes_schema)


def test_the_schema_of_an_answer_has_the_reasoning_first() -> None:
    schema = outputs_schema(dspy.ChainOfThought(MADE).predict.signature)
    assert list(schema["properties"]) == ["reasoning", *WHOLE]
    assert schema["properties"]["summary"]["maxLength"] == 80
