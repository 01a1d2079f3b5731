"""Every type of the language reaches DSPy and comes back: through the three prompts and DSPy's own DummyLM."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from dspex.errors import ModelError
from dspex.signatures import Signature, signature
from workers.adapters.dspy.compact_prompt import CompactAdapter
from workers.adapters.dspy.dspy_signature import dspy_inputs, dspy_names, dspy_signature, field_schema, is_text
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt

STEPS = [{"step": 1, "reasoning": "It rains."}, {"step": "then", "reasoning": "So it is wet."}]
#: A value of each type as a model would answer it.
TYPES: dict[str, Any] = {
    ":string": 'Ümläut "quotes" and\nlines',
    ":integer(min=1)": 7,
    ":float": -0.25,
    ":boolean": True,
    ":atom": "some_name",
    ":any": {"nested": [1, None, "x"]},
    ":map": {"a": 1, "b": {"c": "d"}},
    ":binary": "aGVsbG8=",
    ":datetime": "2025-01-02T03:04:05+00:00",
    ":date": "2025-01-02",
    ":time": "03:04:05",
    ":duration": "P1DT2H30M",
    ":decimal": "19.90",
    ":uuid": "123e4567-e89b-12d3-a456-426614174000",
    ":ipv4": "192.0.2.1",
    ":ipv6": "2001:db8::1",
    ":url": "https://example.org/a",
    ':enum("yes", "no, thanks", "it\'s")': "no, thanks",
    ":embedding(dimensions=3)": [0.5, -1.0, 2.0],
    ":probability": 0.75,
    ":confidence_score": 1.0,
    ":reasoning_chain": STEPS,
    ":token_count": 12,
    ":model_output": "as it was",
    ":prompt_template": "Hello {name}",
    ":function_call": {"name": "search", "arguments": {"q": "x"}, "id": None},
    ":tool_result": {"name": "search", "content": ["a", 1], "id": "1", "is_error": False},
    ":image": {"url": "https://example.org/a.png"},
    ":audio": {"data": "aGVsbG8=", "media_type": "audio/wav"},
    ":history": {"messages": [{"question": "a", "answer": "b"}]},
    ":list(:string)": ["a", "b, c"],
    ":list(:datetime)": ["2025-01-02T03:04:05+00:00"],
    ":list(:uuid)": ["123e4567-e89b-12d3-a456-426614174000"],
    ":dict(:string, :decimal)": {"a": "1.10"},
    ':object("first name"=:string, born=:optional(:date))': {"first name": "Ada", "born": "1815-12-10"},
    ":list(:list(:integer))": [[1, 2], []],
    ":list(:reasoning_chain)": [STEPS],
    ":dict(:string, :float)": {"a": 0.5},
    ":union(:integer, :string)": "seven",
    ":optional(:integer)": 3,
    ':tagged("card", :string, "cash", :integer)': {"tag": "cash", "value": 5},
    ":object(name=:string, age=:optional(:integer))": {"name": "Ada", "age": 36},
}
#: What DSPy's modules take as arguments, and what its signature classes have as attributes.
TAKEN_NAMES = ["config", "demos", "lm", "signature", "new_signature", "prediction", "self", "completions", "copy",
               "json", "schema", "fields", "instructions", "model_config", "model_dump", "items"]  # fmt: skip
PROMPTS = {"chat": ChatPrompt, "json": JsonPrompt, "compact": CompactAdapter}


def one_output(kind: str) -> Signature:
    return signature(f":string question -> {kind} result")


class Says(DummyLM):  # type: ignore[misc]
    """DSPy's DummyLM with an answer's text given as it stands."""

    def __init__(self, text: str) -> None:
        super().__init__([{}])
        self._text = text

    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> list[str]:
        return [self._text]


class Remembers(Says):
    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> list[str]:
        self.asked = str(messages)
        return super().__call__(prompt, messages, **kwargs)


def through_dspy(compiled: Signature, prompt: str, answer: dict[str, Any]) -> Any:
    """A real ``dspy.Predict`` on a model that answers in the prompt's own form."""
    adapter, made = PROMPTS[prompt](), dspy_signature(compiled)
    text = adapter.format_assistant_message_content(made, answer)
    with dspy.context(lm=Says(text), adapter=adapter, disable_history=True, warn_on_type_mismatch=False):
        return dspy.Predict(made)(question="?")


def mentions(message: dict[str, Any], value: Any) -> bool:
    """Whether the first leaf of the value stands in the message, as text or as a media part."""
    leaf = value
    while isinstance(leaf, dict | list):
        leaf = next(iter(leaf.values() if isinstance(leaf, dict) else leaf))
    parts = message["content"] if isinstance(message["content"], list) else [message["content"]]
    told = "".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
    return str(leaf) in told or json.dumps(leaf) in told


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", TYPES)
def test_an_output_of_every_type(kind: str, prompt: str) -> None:
    compiled = one_output(kind)
    prediction = through_dspy(compiled, prompt, {"result": TYPES[kind]})
    checked = compiled.check_outputs({"result": prediction["result"]})
    assert checked.repairs == ()
    assert json.loads(compiled.encode("outputs", checked.values))["result"] == TYPES[kind]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", TYPES)
def test_an_input_of_every_type(kind: str, prompt: str) -> None:
    compiled = signature(f"{kind} given -> :string answer")
    inputs = compiled.validate_inputs({"given": TYPES[kind]})
    messages = PROMPTS[prompt]().format(dspy_signature(compiled), [], dspy_inputs(compiled, inputs))
    assert any(mentions(message, TYPES[kind]) for message in messages)


def test_descriptions_name_the_constraints() -> None:
    compiled = signature(
        ':string text "what was written" -> :string(max_length=160) summary "one sentence", '
        ":list(:integer(min=1, max=10), max_size=3) marks"
    )
    said = {name: field.json_schema_extra["desc"] for name, field in dspy_signature(compiled).fields.items()}
    assert said["text"] == "what was written"
    assert said["summary"] == "one sentence; at most 160 characters"
    assert said["marks"] == "at most 3 items; each at least 1; each at most 10"


NOTED = (
    ':object("firstName"=:string(description="the given name", examples=["Ada"]), '
    'marks=:list(:string(description="a mark")), description="A person of whom we know little.")'
)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "compiled",
    [
        signature(f':string question -> {NOTED} who "who it is"'),
        signature(f":string question -> :list({NOTED}) who"),
        signature(f":string question -> :optional({NOTED}) who"),
        signature(f':{NOTED[1:]} who "who it is" -> :string answer'),
        signature(f":list({NOTED}) who -> :string answer"),
    ],
    ids=["output", "in a list", "optional", "input", "input in a list"],
)
def test_what_is_said_inside_of_types_is_in_every_prompt(compiled: Signature, prompt: str) -> None:
    given = {"who": None} if compiled.input_fields[0].name == "who" else {"question": "?"}
    (system, *_) = PROMPTS[prompt]().format(dspy_signature(compiled), [], given)
    for said in ("the given name", "Ada", "firstName", "a mark", "A person of whom we know little."):
        assert said in system["content"]


def test_the_compact_prompt_names_the_part_that_it_describes() -> None:
    compiled = signature(f':string(examples=["?"]) question -> {NOTED} who "who it is"')
    (system, *_) = CompactAdapter().format(dspy_signature(compiled), [], {"question": "?"})
    assert system["content"].splitlines()[1:] == [
        'question: for example "?"',
        "who: who it is; A person of whom we know little.",
        'who.firstName: the given name; for example "Ada"',
        "who.marks[]: a mark",
    ]


def test_every_field_carries_its_schema_in_the_providers_dialect() -> None:
    compiled = one_output(":string(max_length=5)")
    for flavour in ("json-schema", "openai", "anthropic", "gemini"):
        field = dspy_signature(compiled, flavour).output_fields["result"]
        assert field_schema(field) == compiled.json_schema("outputs", provider=flavour)["properties"]["result"]
        assert is_text(field)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TAKEN_NAMES)
def test_names_that_dspy_keeps_for_itself_are_free_for_users(name: str) -> None:
    compiled = signature(f":string {name}, :string {name}_ -> :string answer, :string also_{name}")
    names = dspy_names(compiled)
    assert len(set(names.values())) == 4
    lm = Remembers("[[ ## answer ## ]]\na\n\n[[ ## " + names[f"also_{name}"] + " ## ]]\nb")
    with dspy.context(lm=lm, adapter=ChatPrompt(), disable_history=True):
        prediction = dspy.Predict(dspy_signature(compiled))(
            **dspy_inputs(compiled, {name: "the first", f"{name}_": "the second"})
        )
    assert "the first" in lm.asked
    assert "the second" in lm.asked
    assert prediction[names[f"also_{name}"]] == "b"


def test_audio_is_never_fetched() -> None:
    compiled = signature(":audio recording -> :string transcript")
    with pytest.raises(ModelError, match="data:"):
        dspy_inputs(compiled, {"recording": {"url": "http://169.254.169.254/latest"}})
