"""Annotations that Python evaluates when they are read, as it does from 3.14 on."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

import pytest
from pydantic import BaseModel

import dspex
from dspex.program.calls.parameters import signature_of

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they stand")


def defined(source: str) -> dict[str, Any]:
    """What the source defines, without the postponed annotations of this module."""
    names: dict[str, Any] = {"__name__": __name__, "dspex": dspex, "BaseModel": BaseModel}
    exec(compile(textwrap.dedent(source), __file__, "exec", dont_inherit=True), names)
    return names


SIGNATURE = """
    class QA(dspex.SignatureModel):
        question: str = dspex.InputField()
        first: list[str] = dspex.OutputField()
        second: {annotation} = dspex.OutputField()
"""


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        ("Unknown", "'Unknown' of second in QA cannot be evaluated: NameError"),
        ("list[Unknown]", r"'list\[Unknown\]' of second in QA cannot be evaluated: NameError"),
        ("(1 / 0)", "an annotation of QA cannot be evaluated: ZeroDivisionError"),
    ],
)
def test_an_annotation_without_a_meaning_is_named(annotation: str, what: str) -> None:
    names = defined(SIGNATURE.format(annotation=annotation))
    with pytest.raises(dspex.SignatureTypeError, match=what):
        dspex.signature(names["QA"])


def test_a_class_of_a_function_may_be_defined_after_the_signature() -> None:
    names = defined(
        """
        def define():
            class QA(dspex.SignatureModel):
                question: str = dspex.InputField()
                answer: Answer = dspex.OutputField()
            class Answer(BaseModel):
                text: str
            return QA
        """
    )
    assert ":object(text=:string) answer" in str(dspex.signature(names["define"]()))


def test_a_name_for_type_checkers_alone_keeps_no_function_from_being_used() -> None:
    names = defined(
        """
        def metric(example: Example, prediction: Prediction = None, *, trace=None) -> Score:
            return 1.0

        @dspex.tool
        def look(place: Place) -> Found:
            return place

        @dspex.setup
        def ready() -> Connection:
            return 5
        """
    )
    assert list(signature_of(names["metric"]).parameters) == ["example", "prediction", "trace"]
    assert names["look"]("here") == "here"
    assert names["ready"]() == 5
