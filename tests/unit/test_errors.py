"""The error tree: picklable, serialisable, drawn as it is."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from dspex import errors
from dspex.errors import ConstraintViolation, DspexError, ExecutionFailed, FieldError, ValidationError

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, DspexError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_pickling_and_storing(cls: type[DspexError]) -> None:
    error = cls("what happened", code="a_code", retryable=True, evidence=[1, {"deep": "er"}])
    for copy in (pickle.loads(pickle.dumps(error)), DspexError.from_dict(error.as_dict())):
        assert type(copy) is cls
        assert (str(copy), copy.code, copy.retryable, copy.details) == (
            "what happened",
            "a_code",
            True,
            {"evidence": [1, {"deep": "er"}]},
        )


@pytest.mark.parametrize("cls", CLASSES)
def test_without_a_message_the_docstring_speaks(cls: type[DspexError]) -> None:
    assert str(cls()) == inspect.cleandoc(cls.__doc__ or "").split("\n")[0]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"DspexError"}
    assert drawn == {cls.__name__ for cls in CLASSES}


def test_only_broken_constraints_are_a_constraint_violation() -> None:
    wrong_type = FieldError("n", "an integer", "'5'")
    too_large = FieldError("m", "at most 10", "11", "max")
    assert type(ValidationError.of("inputs", [too_large])) is ConstraintViolation
    both = ValidationError.of("inputs", [wrong_type, too_large])
    assert type(both) is ValidationError
    assert both.errors == (wrong_type, too_large)


def test_the_cause_of_a_failure_comes_back_as_what_it_was() -> None:
    cause = errors.ModelError("the provider is down", code="provider_unavailable", retryable=True, retry_after=3)
    failed = ExecutionFailed("…", execution_id="x", attempts=2, cause=cause.as_dict())
    assert isinstance(failed.cause, errors.ModelError)
    assert failed.cause.retry_after == 3
