"""The reader of answers: what each is read as, in every prompt's form, whole and in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import ValidationError
from dspex.signatures import Signature, signature
from tests.answers import PROMPTS, Followed, Outcome, read, sections
from workers.adapters.dspy.dspy_signature import dspy_signature
from workers.answers.answer_reader import AnswerReader
from workers.answers.expected import Expected, Form, Output

QA = signature("signature qa: :string question -> :string answer")
SCORED = signature("signature scored: :string question -> :string answer, :integer n")
OPTIONAL = signature("signature maybe: :string question -> :optional(:string) answer")
COUNTED = signature("signature counted: :string question -> :integer n")
TAGGED = signature("signature tagged: :string question -> :list(:string) tags = []")

PARIS = '{"answer": "Paris"}'
LYON = '{"answer": "Lyon"}'
HEAD, END = "[[ ## answer ## ]]", "[[ ## completed ## ]]"
REASONING = "reasoning was set aside"
LAST = "the last of several answers was taken"
MARKERS = "markers in another form"

OBJECTS = ("json", "direct")
case = pytest.mark.case


def near(id: str, text: str, value: Any) -> Any:
    """An answer and what its output is; None if it is sent back."""
    return pytest.param(text, value, marks=case(id), id=f"{id} {text[:40]!r}")


def of(id: str, text: str, value: Any, *repairs: str) -> Any:
    """The same, with the repairs."""
    return pytest.param(text, value, repairs, marks=case(id), id=f"{id} {text[:40]!r}")


@pytest.mark.parametrize("prompt", OBJECTS)
@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        of("lm-01", f'<think>{{"answer": "Lyon", }}</think>{PARIS}', "Paris", REASONING),
        of("lm-01", f'<think>{{"answer": "Ly</think>{PARIS}', "Paris", REASONING),
        of("lm-01", f'{PARIS}<think>was {{"answer":"Lyon"}} right?</think>', "Paris", REASONING),
        of("lm-01", f"<think>perhaps {LYON}", None),
        of("lm-01", f"{LYON}, no</think>{PARIS}", "Paris", REASONING),
        of("lm-01", f'{{"answer": "Ly</think>{PARIS}', "Paris", REASONING),
        of("lm-01", '{"answer": "Use <think>, then </think>."}', "Use <think>, then </think>."),
        *(
            of("lm-01", f"{begin}{LYON}{end}{PARIS}", "Paris", REASONING)
            for begin, end in [
                ("<thinking>", "</thinking>"),
                ("<reasoning>", "</reasoning>"),
                ("<THINK type='x'>", "</THINK>"),
                ("[THINK]", "[/THINK]"),
                ("◁think▷", "◁/think▷"),
                ("<seed:think>", "</seed:think>"),
                ("<|begin_of_thought|>", "<|end_of_thought|>"),
                ("<|START_THINKING|>", "<|END_THINKING|>"),
                ("<|thought|>", "<|/thought|>"),
                ("<|channel>thought\n", "<channel|>"),
            ]
        ),
        of(
            "lm-01",
            f"<|channel|>analysis<|message|>{LYON}<|end|><|start|>assistant<|channel|>final<|message|>{PARIS}<|return|>",
            "Paris",
            REASONING,
            "text around the JSON was set aside",
        ),
        of("lm-05", f"{PARIS}\n[1] source", "Paris", "text around the JSON was set aside"),
        of("lm-05", f"```json\n{PARIS}\n```", "Paris"),
        of("lm-05", f"I {{think}} so: {PARIS} {{sure}}", "Paris", "text around the JSON was set aside"),
        of(
            "lm-05",
            f'{PARIS}\nin the form {{"answer": "..."}}',
            "Paris",
            "text around the JSON was set aside",
        ),
        of("lm-06", f"{PARIS}\n{PARIS}", "Paris"),
        of("lm-06", f"{LYON}\n{PARIS}", "Paris", LAST),
        of("lm-06", f"```json\n{LYON}\n```\n```json\n{PARIS}\n```", "Paris", LAST),
        of("lm-06", '{"answer": "Lyon", "answer": "Paris"}', "Paris", "the last of a repeated key"),
        of("lm-06", f"[{PARIS}]", "Paris", "text around the JSON was set aside"),
        of("lm-06", json.dumps(PARIS), "Paris", "JSON in JSON text"),
        of("lm-06", f'{LYON} {{"answer": it}}', None),
        of("lm-06", f'{LYON} {{"answer": "Par', None),
        of("lm-09", '{"answer": "a\\r\\nb\\u2028c\\u0085d\x0be"}', "a\r\nb\u2028c\x85d\x0be", "a line break or another "
           "control character in a JSON string"),
        of("lm-09", '{"answer": "a\\r\\nb\u2028c\x85d\\u000be\\u0000"}', "a\r\nb\u2028c\x85d\x0be\0"),
        of("lm-10", '{"answer": "The fir', None),
        of("lm-14", "", None),
        of("lm-14", "   ", None),
        of("lm-15", '{"answer": "\\ud83c\\udf78",}', "🍸", "a comma before a closing bracket"),
        of("lm-15", '{"answer": "\ud83c\udf78"}', "🍸", "the halves of a character were joined"),
        of("lm-16", '{"answer": "x \\ud835 y"}', None),
        of("own-02", '{"answer": 01234}', "01234", "a number in another form than JSON's"),
        of("own-02", '{"answer": +4912}', "+4912", "a number in another form than JSON's"),
        of("own-02", '{"answer": 1.10}', "1.10", "text written as a number or a truth value"),
        of("own-02", '{"answer": -0}', "-0", "text written as a number or a truth value"),
        of("own-02", '{"answer": NaN}', "NaN", "a number in another form than JSON's"),
        of("own-02", '{"answer": 12E5}', "12E5", "text written as a number or a truth value"),
        of("own-03", '{"answer": """a\nb"""}', None),
        of("own-03", "{'answer': 'it's ok'}", None),
        of("own-03", "{'answer': 'ok'}", "ok", "single quotes in JSON"),
        of("own-03", '{"answer": `Paris`}', None),
        of("own-03", '{"answer": "a" + "b"}', None),
        of("own-03", '{"answer": "He said "hi" there"}', None),
        of("own-03", '{"answer": "C:\\dir"}', None),
        of("own-03", '{answer: "a" /* so */}', "a", "a key without quotes", "comments in JSON"),
        of("lm-07", f"{HEAD}\nParis\n{END}", "Paris", "sections where JSON was asked for"),
    ],
)  # fmt: skip
def test_objects(prompt: str, text: str, value: str | None, repairs: tuple[str, ...]) -> None:
    assert read(QA, prompt, text) == (Outcome(None) if value is None else Outcome({"answer": value}, repairs))


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        *(
            of("lm-02", f"{begin}\n{HEAD}\nLyon\n{done}{end}\n{HEAD}\nParis", "Paris", REASONING)
            for begin, end in [("<think>", "</think>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]")]
            for done in ("", f"{END}\n")
        ),
        of("lm-02", f"{HEAD}\nLyon?\n</think>\n{HEAD}\nParis", "Paris", REASONING),
        of("lm-02", f"{HEAD}\nLyon?</think>{HEAD}\nParis", "Paris", REASONING),
        of("lm-02", f"<think>\n{HEAD}\nLyon\n{END}", None),
        of("lm-02", f"{HEAD}\n<think>no, Paris</think>\nParis", "Paris", REASONING),
        of("lm-02", f"{HEAD}\nParis\n<think>sure?</think>\n{END}", "Paris", REASONING),
        of("lm-02", f"{HEAD}\nLyon\n<think>no</think>\nParis\n{END}", None),
        of("lm-02", f"{HEAD}\nUse <think>x</think> tags\n{END}", "Use <think>x</think> tags"),
        of("lm-02", f"{HEAD}\nLyon\n{HEAD}\nParis\n{END}", "Paris", LAST),
        of(
            "lm-02",
            f"{HEAD}\nParis\n{END}\n[[ ## question ## ]]\nAnd Japan?\n{HEAD}\nTokyo\n{END}",
            "Paris",
            "another turn after the answer was set aside",
        ),
        of("lm-07", f"{HEAD} Paris {END}", "Paris", MARKERS),
        of("lm-07", f"{HEAD}\nParis{END}", "Paris", MARKERS),
        of("lm-08", f"  {HEAD}\nParis\n  {END}", "Paris", MARKERS),
        of("lm-08", f"**{HEAD}**\nParis\n**{END}**", "Paris", MARKERS),
        of("lm-08", f"**{HEAD}:** Paris", "Paris", MARKERS),
        of("lm-08", f"{HEAD}\nParis\n> {END}", "Paris", MARKERS),
        of("lm-08", f"> {HEAD}\n> Paris\n> {END}", None),
        of("lm-08", "[[##answer##]]\nParis\n[[##completed##]]", "Paris", MARKERS),
        of("lm-08", f"`{HEAD}`\nParis\n`{END}`", "Paris", MARKERS),
        of("lm-08", f"{HEAD}: Paris", "Paris", MARKERS),
        of("lm-08", f"{HEAD}\n: Paris\n{END}", ": Paris"),
        of("lm-08", f'{HEAD}\nHe said "Paris"\n{END}', 'He said "Paris"'),
        of("lm-08", f"{HEAD}\nsee [[ ## 1 ## ]] there\n{END}", "see [[ ## 1 ## ]] there"),
        of("lm-08", f"{HEAD}\nParis<|im_end|>", "Paris", "an end token of the model was set aside"),
        of("lm-08", f"{HEAD}\nParis\n<|im_end|> <|endoftext|>\n", "Paris", "an end token of the model was set aside"),
        of("lm-09", f"{HEAD}\na\r\nb\rc\x0bd\u2028e\x85f\x0cg\r\n{END}", "a\r\nb\rc\x0bd\u2028e\x85f\x0cg"),
        of("lm-11", f"{HEAD}\nParis\n[[ ## compl", None),
        of("own-02", f"{HEAD}\n007\n{END}", "007"),
        of("lm-14", "", None),
        of("lm-14", "I cannot say.", None),
        of("lm-16", f"{HEAD}\nx \ud835 y\n{END}", None),
        of("lm-16", f"{HEAD}\nx \ud835\udc00 y\n{END}", "x 𝐀 y", "the halves of a character were joined"),
        of("own-03", PARIS, "Paris", "JSON where sections were asked for"),
    ],
)
def test_sections(text: str, value: str | None, repairs: tuple[str, ...]) -> None:
    assert read(QA, "chat", text) == (Outcome(None) if value is None else Outcome({"answer": value}, repairs))


NOTED = signature("signature noted: :string question -> :string answer, :optional(:string) note")
INTEGERS = signature("signature integers: :string question -> :list(:integer) numbers")
TEXTS = signature("signature texts: :string question -> :list(:string) tags")


@pytest.mark.parametrize("prompt", OBJECTS)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        near("lm-01", f"<reflection>{LYON}</reflection>{PARIS}", "Paris"),
        near("lm-01", f"<think><think>{LYON}</think>{LYON}</think>{PARIS}", "Paris"),
        near("lm-01", f"```\n<think>{LYON}</think>\n```\n{PARIS}", "Paris"),
        near("lm-01", f"<think>{LYON}</think>{PARIS}</think>", None),
        near("lm-01", f"{PARIS}<|im_end|>\n<|im_start|>user\n{LYON}", "Paris"),
        near("lm-01", f"{PARIS}<|eot_id|><|start_header_id|>user<|end_header_id|>\n{LYON}", "Paris"),
        near("lm-05", f'{{"answer": "<answer>"}} {PARIS}', "Paris"),
        near("lm-05", f'{PARIS} {{"answer": "<answer>"}}', None),
        near("lm-05", f'{PARIS} {{"answer": "string"}}', None),
        near("lm-05", f'{PARIS} {{"answer": ""}}', None),
        near("lm-06", '{"ANSWER": "Paris"}', "Paris"),
        near("own-02", '{"answer": True}', "True"),
        near("own-02", '{"answer": true}', "true"),
        near("own-02", '{"answer": null}', None),
        near("own-02", '{"answer": 0x1F}', None),
        near("own-02", '{"answer": 1e5}', "1e5"),
        near("own-02", '{"answer": 12345678901234567890123}', "12345678901234567890123"),
        near("own-02", '{"answer": 1_000}', None),
    ],
)
def test_neighbours_of_objects(prompt: str, text: str, value: str | None) -> None:
    assert read(QA, prompt, text).outputs == (None if value is None else {"answer": value})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        near("lm-02", f"<reflection>\n{HEAD}\nLyon\n</reflection>\n{HEAD}\nParis\n{END}", "Paris"),
        near("lm-02", f"{HEAD}\nthe user asks</think>Paris\n{END}", None),
        near("lm-02", f"{HEAD}\nUse <think>x</think>tags\n{END}", "Use <think>x</think>tags"),
        *(
            near("lm-02", f"{begin}\n{HEAD}\nParis\n{end}", "Paris")
            for begin, end in [
                ("<answer>", "</answer>"),
                ("```markdown", "```"),
                ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
                ("<|begin_of_box|>", "<|end_of_box|>"),
            ]
        ),
        near("lm-02", f"{HEAD}\n```\nParis\n```", "```\nParis\n```"),
        *(
            near("lm-08", f"{HEAD}\nParis\n{end}", "Paris")
            for end in ["</s>", "<|eot_id|>", "[/INST]", "<|im_end|>\n<|endoftext|>", f"2. {END}", f"[{END}]"]
        ),
        *(
            near("lm-08", f"{HEAD}\nParis{end}", None)
            for end in [
                "\n<|im_end|>\n<|im_start|>user\nWhat?", "<|endoftext|>Human: hi", "\n[[ ## completed ## ] ]",
                "\n[ ## completed ## ]\nok", "\n## completed ##", "\n## completed", "\n[[completed]]",
                "\n[[ # completed # ]]", "\n[[ ## `completed` ## ]]", "\n\\[\\[ ## completed ## \\]\\]",
                "\n【【 ## completed ## 】】", "\n[[\xa0##\xa0completed\xa0##\xa0]]", "\n<|completed|>",
            ]
        ),
        near("lm-08", f"{HEAD}\nParis [[ ## Completed ## ]]", "Paris"),
        near("lm-08", f"[[ ## Answer ## ]]\nParis\n{END}", "Paris"),
        near("lm-08", f"{HEAD} -> Paris\n{END}", None),
        near("lm-08", f"<b>{HEAD}</b>\nParis\n<b>{END}</b>", None),
        near("lm-08", f'"{HEAD}\nParis"', None),
        near("lm-08", f"| {HEAD} | Paris |\n| {END} | |", None),
        near("lm-08", f"([[ ## answer ## ]]) Paris ({END})", "Paris"),
        near("lm-08", f"**{HEAD}** **Paris** **{END}**", "**Paris**"),
        near("lm-08", f"{HEAD}\n[[ ## other ## ]]\nParis\n{END}", None),
        near("lm-08", f"{HEAD}\nParis\n[[ ## other ## ]] is a marker\n{END}", None),
        near("lm-14", f"{HEAD}\n", None),
        near("lm-14", f"{HEAD}\nParis\n{END}\n{HEAD}\n\n{END}", None),
        *(
            near("lm-08", f"{HEAD}\n{text}\n{END}", text)
            for text in [
                "a <|im_end|> token in a line", "<s>old</s>", "a [[ link ]] b", "# Heading\n## completed steps\ntext",
                "use <b>x</b>", "in 1999.", "- a\n- b", "see [1]", "completed", "a (b)", "x\n---",
            ]
        ),
    ],
)  # fmt: skip
def test_neighbours_of_sections(text: str, value: str | None) -> None:
    assert read(QA, "chat", text).outputs == (None if value is None else {"answer": value})


@case("lm-14")
@pytest.mark.parametrize(
    ("prompt", "text", "note"),
    [
        ("chat", f"{HEAD}\nParis\n[[ ## Note ## ]]\nold\n{END}", "old"),
        ("json", '{"answer": "Paris", "Note": "old"}', "old"),
        ("direct", '{"answer": "Paris", "NOTE": "old"}', "old"),
        ("chat", f"{HEAD}\nParis\n[[ ## `note` ## ]]\nold\n{END}", None),
        ("chat", f"{HEAD}\nParis\n[[ ## note ## ]\nold\n{END}", None),
        ("chat", f"{HEAD}\nParis\n## note ##\nold\n{END}", None),
        ("chat", f"{HEAD}\nParis\n[[ ## note\nold\n{END}", None),
        ("json", '{"answer": "Paris"}, "note": "old"}', None),
        ("direct", '{"answer": "Paris"} "note": "old"', None),
        ("json", '{"answer": "Paris"} {"note": "old"}', None),
    ],
)
def test_an_optional_output_is_not_lost_for_how_its_name_is_written(prompt: str, text: str, note: str | None) -> None:
    assert read(NOTED, prompt, text).outputs == (None if note is None else {"answer": "Paris", "note": note})


@case("own-04")
@case("own-02")
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("made", "written", "value"),
    [
        (INTEGERS, "[1,000]", None),
        (INTEGERS, "[12,050,7]", None),
        (INTEGERS, "[1, 007]", [1, 7]),
        (TEXTS, "[007,008]", ["007", "008"]),
        (TEXTS, "[True, -0]", ["True", "-0"]),
    ],
)
def test_a_list_of_numbers_is_not_guessed(prompt: str, made: Signature, written: str, value: Any) -> None:
    name = made.output_fields[0].name
    text = sections(**{name: written}) if prompt == "chat" else f'{{"{name}": {written}}}'
    assert read(made, prompt, text).outputs == (None if value is None else {name: value})


@case("lm-14")
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "text", ["", "  ", "I would rather not.", '{"error": "model not found"}', '{"detail": "busy"}', "{}", "null", "[]"]
)
@pytest.mark.parametrize("made", [OPTIONAL, TAGGED])
def test_what_is_no_answer_has_no_defaults(made: Signature, prompt: str, text: str) -> None:
    assert read(made, prompt, text).outputs is None


@case("lm-14")
@case("own-01")
def test_what_is_optional_may_be_missing_from_an_answer() -> None:
    made = signature('signature m: :string q -> :string answer, :list(:string) tags = [], :map more = {"a": 1}')
    for prompt in PROMPTS:
        text = sections(answer="x") if prompt == "chat" else '{"answer": "x"}'
        assert read(made, prompt, text).outputs == {"answer": "x", "tags": [], "more": {"a": 1}}


@case("own-01")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_defaults_that_are_lists_and_maps_do_not_matter_to_an_answer_that_has_them(prompt: str) -> None:
    text = sections(tags='["a"]') if prompt == "chat" else '{"tags": ["a"]}'
    assert read(TAGGED, prompt, text).outputs == {"tags": ["a"]}


@case("lm-10")
@case("lm-11")
@pytest.mark.parametrize(
    ("prompt", "made", "text", "accepted"),
    [
        ("json", QA, '{"answer": "The fir', {"answer": "The fir"}),
        ("direct", QA, PARIS, {"answer": "Paris"}),
        ("json", COUNTED, '{"n": 12', None),
        ("direct", TAGGED, '{"tags": ["a", "b", "unfini', {"tags": ["a", "b", "unfini"]}),
        ("chat", QA, f"{HEAD}\nThe treaty was", {"answer": "The treaty was"}),
        ("chat", QA, f"{HEAD}\nThe treaty\n[[ ## compl", {"answer": "The treaty"}),
        ("chat", COUNTED, "[[ ## n ## ]]\n12", None),
        ("chat", SCORED, f"{HEAD}\nParis", None),
        ("chat", QA, "I think that", None),
    ],
)
def test_an_answer_that_was_cut_off_is_sent_back_or_accepted(
    prompt: str, made: Signature, text: str, accepted: dict[str, Any] | None
) -> None:
    assert read(made, prompt, text, is_cut=True).outputs is None
    outcome = read(made, prompt, text, is_cut=True, on_cut="accept")
    assert outcome.outputs == accepted
    assert accepted is None or "an answer that was cut off was closed" in outcome.repairs


@case("sig-06")
@case("sig-07")
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (':enum("1", "2")', "1", "1"),
        (':optional(:enum("1", "2"))', "2", "2"),
        (':optional(:enum("true", "false"))', "true", "true"),
        (':optional(:enum("1.0", "1.10"))', "1.10", "1.10"),
        (':enum("1", "a")', "1", "1"),
        (':list(:enum("1", "0"))', "[1, 0, 1]", ["1", "0", "1"]),
        (':list(:enum("true", "false"))', "[true]", ["true"]),
        (':list(:enum("1.5", "2"))', "[1.5, 2]", ["1.5", "2"]),
        (':list(:enum("007", "7"))', "[007, 7]", ["007", "7"]),
        (":integer(one_of=[1, 0])", '"1"', 1),
        (":list(:string)", "[007, 1.10]", ["007", "1.10"]),
    ],
)
def test_choices_of_digits(prompt: str, kind: str, written: str, value: Any) -> None:
    made = signature(f"signature c: :string q -> {kind} stars")
    text = sections(stars=written) if prompt == "chat" else f'{{"stars": {written}}}'
    assert read(made, prompt, text).outputs == {"stars": value}


@case("sig-05")
def test_the_message_about_a_choice_lists_the_allowed_values() -> None:
    made = signature("signature r: :string q -> :integer(one_of=[1, 2]) rank, :list(:integer(one_of=[3, 4])) more")
    with pytest.raises(ValidationError) as refused:
        made.check_outputs({"rank": "GOOD", "more": ["BAD"]})
    assert [fault.expected for fault in refused.value.errors] == ["one of 1, 2", "one of 3, 4"]


@case("sig-12")
def test_a_description_is_asked_for_as_it_is_written() -> None:
    made = dspy_signature(signature('signature d: :string q "So..." -> :string answer "Etc..."'))
    assert [field.json_schema_extra["desc"] for field in made.fields.values()] == ["So...", "Etc..."]


@case("own-04")
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("written", "value"),
    [("1.0", 1), ("1.000", None), ('"1.000"', None), ('"1,000"', None), ("007", 7), ("12.5", None)],
)
def test_an_integer_is_not_guessed(prompt: str, written: str, value: int | None) -> None:
    text = sections(n=written) if prompt == "chat" else f'{{"n": {written}}}'
    assert read(COUNTED, prompt, text).outputs == (None if value is None else {"n": value})


@case("lm-08")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_output_may_be_named_like_the_end_marker(prompt: str) -> None:
    made = signature("signature c: :string q -> :boolean completed")
    text = {"chat": sections(completed_="true"), "json": '{"completed_": true}', "direct": '{"completed": true}'}
    assert read(made, prompt, text[prompt]).outputs == {"completed": True}


def expected(form: Form) -> Expected:
    return Expected(form, {"answer": Output(True, name="answer"), "rating_": Output(False, name="rating")})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({"answer": st.text(), "rating_": values}), st.booleans(), st.data())
def test_followers_see_the_fields_wherever_the_text_is_cut(
    written: dict[str, Any], ascii_only: bool, data: st.DataObject
) -> None:
    text = f"Here it is:\n```json\n{json.dumps(written, ensure_ascii=ascii_only)}\n```"
    followed = Followed()
    reader = AnswerReader(expected("object"), followed.begin)
    at = 0
    for place in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))):
        reader.feed(text[at:place])
        at = place
    reader.feed(text[at:])
    assert followed.values == {"answer": written["answer"], "rating": written["rating_"]}
    assert followed.texts.get("answer", "") == written["answer"]
    assert followed.resets == 0
    if not isinstance(written["rating_"], str):
        assert json.loads(followed.texts["rating"]) == written["rating_"]


def test_text_is_shown_as_it_is_written_and_what_may_be_a_marker_is_not() -> None:
    followed = Followed()
    reader = AnswerReader(expected("sections"), followed.begin)
    reader.feed("[[ ## answer ## ]]\nParis is the capital")
    assert followed.texts == {"answer": "Paris is the capital"}
    reader.feed(" \n[[ #")
    assert followed.texts == {"answer": "Paris is the capital"}
    reader.feed(" no header ]] at all")
    assert followed.texts == {"answer": "Paris is the capital \n[[ # no header ]] at all"}
    reader.feed("\r\n[[ ## rating_ ## ]] 0.5 is the rating")
    assert followed.values == {"answer": "Paris is the capital \n[[ # no header ]] at all"}
    assert followed.texts["rating"] == "0.5 is the rating"


def test_a_string_is_shown_as_it_is_written_and_half_a_character_is_not() -> None:
    followed = Followed()
    reader = AnswerReader(expected("object"), followed.begin)
    reader.feed('{"answer": "caf\\u00')
    assert followed.texts == {"answer": "caf"}
    reader.feed("e9 \\ud83d")
    assert followed.texts == {"answer": "café "}
    reader.feed('\\ude00", "rating_": 12')
    assert followed.values == {"answer": "café 😀"}
    reader.feed("3}")
    assert followed.values["rating"] == 123


@case("lm-01")
@case("lm-02")
@pytest.mark.parametrize(
    ("form", "draft", "answer"),
    [
        ("object", '{"answer": "Lyon", "rating_": 1}', '</think>{"answer": "Paris", "rating_": 2}'),
        ("object", '{"answer": "Lyon", "rating_": 1}', '\n{"answer": "Paris", "rating_": 2}'),
        (
            "sections",
            f"{HEAD}\nLyon\n[[ ## rating_ ## ]]\n1",
            f"\n</think>\n{HEAD}\nParis\n[[ ## rating_ ## ]]\n2\n{END}",
        ),
    ],
)
def test_a_draft_that_was_shown_is_taken_back(form: Form, draft: str, answer: str) -> None:
    followed = Followed()
    reader = AnswerReader(expected(form), followed.begin)
    reader.feed(draft)
    assert followed.texts["answer"] == "Lyon"
    reader.feed(answer)
    assert reader.end().values == {"answer": "Paris", "rating_": 2}
    assert (followed.resets, followed.values) == (1, {"answer": "Paris", "rating": 2})


@case("lm-01")
def test_a_draft_in_reasoning_is_never_shown() -> None:
    followed = Followed()
    reader = AnswerReader(expected("object"), followed.begin)
    for letter in '<think>{"answer": "Lyon", "rating_": 1}</think>{"answer": "P':
        reader.feed(letter)
    assert (followed.resets, followed.texts) == (0, {"answer": "P"})


@case("http-09")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the model answered nothing"),
        ("<think>Hm", "the model wrote its reasoning and no answer"),
        ("No.", "no value for answer, rating_"),
        ('{"answer": "x"}', "no value for rating_"),
        ('{"answer": "x", "rating_": "it" s}', "it cannot be read in one way only"),
    ],
)
def test_an_answer_that_cannot_be_used_has_a_reason(text: str, words: str) -> None:
    asked = expected("object")
    reader = AnswerReader(asked)
    reader.feed(text)
    reading = reader.end()
    assert reading.why(reading.missing(asked)) == words
    assert bool(reading.faults) is (not words.startswith("no value"))
