"""JSON objects in answers: which are found, which are repaired, and which count as unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dspex.signatures.values.code_fence import without_fence
from workers.answers.json_object import MOST_BRACKETS, MOST_CHARACTERS, json_object

LONG = {"text": "x" * MOST_CHARACTERS}


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
    ("answer", "found"),
    [
        (json.dumps(LONG), LONG),
        (f"Here it is: {json.dumps(LONG)} Enjoy.", LONG),
        (f"```json\n{json.dumps(LONG)}\n```", LONG),
        ('{"a": 1,}', {"a": 1}),
        ('{"a": 1', {"a": 1}),
        (json.dumps(LONG)[:-1], None),
        ('{"a": ' + "[" * MOST_BRACKETS, None),
        ('{\'```json\n{",```json\n{",', None),
    ],
    ids=["long", "long in words", "long in a fence", "comma", "not closed", "long, not closed", "brackets", "fences"],
)
def test_an_object_is_repaired_within_bounds(answer: str, found: dict[str, Any] | None) -> None:
    assert json_object(answer) == found
