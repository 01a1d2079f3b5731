"""JSON as models write it: what is repaired, and what is refused because it has several meanings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import JsonParser, NotJsonError, NumberText, TextSource, read_json


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("```json\n1\n```", "1"),
        (" ```\r\n1\r\n``` \n", "1"),
        ("```json\n1```", "1"),
        ("```\n```", ""),
        ("```json 1```", "```json 1```"),
        ("```two words\n1\n```", "```two words\n1\n```"),
        ("```json\n1\n``` more", "```json\n1\n``` more"),
        (" 1 ", " 1 "),
    ],
)
def test_a_fence_is_removed_when_it_encloses_the_text(text: str, inside: str) -> None:
    assert without_fence(text) == inside


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a": 1}', {"a": 1}, []),
        ('{"a": 1,}', {"a": 1}, ["a comma before a closing bracket"]),
        ("{'a': True}", {"a": True}, ["single quotes in JSON", "True, False or None in JSON"]),
        ("{a: [None, ]}", {"a": [None]}, ["a key without quotes", "True, False or None in JSON"]),
        ('{"a": /* one */ 1} // two', {"a": 1}, ["comments in JSON"]),
        ('{"a": 1, "a": 2}', {"a": 2}, ["the last of a repeated key"]),
        ('["a\tb"]', ["a\tb"], ["a line break or another control character in a JSON string"]),
        ('["\\ud83d\\ude00", "\\ud83d"]', ["😀", "\ud83d"], []),
        ("[007, +1, .5, 1., NaN]", ["007", "+1", ".5", "1.", "NaN"], ["a number in another form than JSON's"]),
        ("-12", -12, []),
        ("True", True, ["True, False or None in JSON"]),
    ],
)
def test_what_has_one_meaning_is_read(text: str, value: Any, repairs: list[str]) -> None:
    found, made = read_json(text)
    assert found == value
    assert [repair for repair in made if repair in repairs] == repairs


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "{", "[1", '{"a"', '{"a" 1}', '{"a": x}', '{"a": 1,,}', "[,]", '"a" + "b"', "{'a': 'it's'}",
        '{"a": """b"""}', '{"a": `b`}', '["\\q"]', "[1] 2", "[" * 200 + "1,]" + "]" * 199, "01" * 500,
        "[1_000]", "{1: 2}", "/",
    ],
)  # fmt: skip
def test_what_has_none_or_several_is_refused(text: str) -> None:
    with pytest.raises(NotJsonError):
        read_json(text)


@pytest.mark.parametrize("text", ["1.10", "12E5", "-0.0", "0.1", "1e5"])
def test_a_number_keeps_its_text(text: str) -> None:
    value, _ = read_json(text)
    assert value == float(text)
    assert (value.text if isinstance(value, NumberText) else repr(value)) == text
    assert json.loads(json.dumps([value])) == [float(text)]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), values), st.booleans(), st.sampled_from([None, 1]), st.integers(1, 5))
def test_the_parser_reads_what_json_reads_wherever_it_is_cut(
    value: dict[str, Any], ascii_only: bool, indent: int | None, size: int
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    source = TextSource()
    parser = JsonParser(source)
    parsing = parser.value()
    last = None
    for at in range(0, len(text), size):
        source.feed(text[at : at + size])
        try:
            next(parsing)
        except StopIteration as stop:
            last = stop
    assert last is not None
    assert (last.value, parser.repairs) == (value, {})
