"""Answers taken apart as they are written: however the text is cut, the same fields come out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.answers.incremental import JsonAnswer, PartialAnswer, SectionsAnswer

NAMES = {"answer": "answer", "rating_": "rating", "thoughts": "thoughts"}
TEXTS = {"answer"}


class Told:
    """What a StreamedAnswer was told."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def text(self, field: str, more: str) -> None:
        assert field not in self.values, "text after the field was complete"
        self.texts[field] = self.texts.get(field, "") + more

    def field(self, name: str, value: Any) -> None:
        self.values[name] = value


Kind = Callable[[Told], PartialAnswer]


def as_json(told: Told) -> PartialAnswer:
    return JsonAnswer(told, NAMES)


def as_sections(told: Told) -> PartialAnswer:
    return SectionsAnswer(told, NAMES, TEXTS)


def told_of(kind: Kind, pieces: Sequence[str]) -> Told:
    told = Told()
    answer = kind(told)
    for piece in pieces:
        answer.feed(piece)
    answer.end()
    return told


def cuts(text: str) -> st.SearchStrategy[list[str]]:
    """The text, cut anywhere."""
    places = st.lists(st.integers(0, len(text)), max_size=8).map(lambda found: sorted({0, *found, len(text)}))
    return places.map(lambda places: [text[a:b] for a, b in itertools.pairwise(places)])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
objects = st.fixed_dictionaries({"answer": st.text()}, optional={"rating_": values, "thoughts": values, "else": values})


@given(objects, st.booleans(), st.sampled_from([None, 0, 2]), st.data())
def test_json_cut_anywhere_is_the_same_fields(
    written: dict[str, Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps(written, ensure_ascii=ascii_only, indent=indent)
    told = told_of(as_json, data.draw(cuts(f"Here it is:\n```json\n{text}\n```")))
    assert told.values == {NAMES[key]: value for key, value in written.items() if key in NAMES}
    for key, name in NAMES.items():
        value = written.get(key)
        if isinstance(value, str):
            assert told.texts.get(name, "") == value
        elif key in written:
            assert json.loads(told.texts[name]) == value


# Text that is one line or several, none of which is a header.
prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[")).map(
    lambda text: "\n".join(text.splitlines()).strip()
)


@given(prose, st.lists(st.integers() | st.text(max_size=5), max_size=4), prose, st.data())
def test_sections_cut_anywhere_are_the_same_fields(
    answer: str, rating: list[Any], aside: str, data: st.DataObject
) -> None:
    text = (
        f"{aside}\n[[ ## answer ## ]]\n{answer}\n\n[[ ## rating_ ## ]]\n{json.dumps(rating)}\n"
        f"[[ ## unknown ## ]]\n{aside}\n[[ ## completed ## ]]"
    )
    told = told_of(as_sections, data.draw(cuts(text)))
    assert told.values == {"answer": answer, "rating": rating}
    assert told.texts.get("answer", "") == answer
    assert json.loads(told.texts["rating"]) == rating


def test_text_comes_as_it_is_written_and_what_may_be_a_header_does_not() -> None:
    told = Told()
    answer = as_sections(told)
    answer.feed("[[ ## answer ## ]]\nParis")
    assert told.texts == {"answer": "Paris"}
    answer.feed(" \n[[ #")
    assert told.texts == {"answer": "Paris"}
    answer.feed(" no header ]]")
    assert told.texts == {"answer": "Paris \n[[ # no header ]]"}
    answer.feed("\r\n[[ ## rating_ ## ]] 0.5")
    assert told.values == {"answer": "Paris \n[[ # no header ]]"}
    assert told.texts["rating"] == "0.5"


def test_a_string_comes_as_it_is_written_and_half_a_character_does_not() -> None:
    told = Told()
    answer = as_json(told)
    answer.feed('{"answer": "caf\\u00')
    assert told.texts == {"answer": "caf"}
    answer.feed("e9 \\ud83d")
    assert told.texts == {"answer": "café "}
    answer.feed('\\ude00", "rating_": 12')
    assert told.values == {"answer": "café 😀"}
    answer.feed("3}")
    assert told.values["rating"] == 123


@pytest.mark.parametrize(
    "text",
    ['{"answer": tru }', '{"answer" "x"}', '{answer: "x"}', '{"answer": ]}', '{"answer": "\\q"}', "no JSON", "[1]"],
)
def test_what_is_no_json_tells_nothing_and_raises_nothing(text: str) -> None:
    assert told_of(as_json, list(text)).values == {}


def test_an_answer_that_is_cut_off_has_no_complete_field() -> None:
    assert told_of(as_json, ['{"answer": "Par']).values == {}
    assert told_of(as_json, ['{"answer": "Par']).texts == {"answer": "Par"}
