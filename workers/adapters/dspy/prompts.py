"""DSPy's own prompts, read without judging: a program's outputs come back as the model wrote them.

DSPy parses each output by its annotation and fails the whole answer on the first misfit, and it ignores constraints.
Here an answer is only taken apart into its fields, by the reader of answers; whether each value is right is decided
once, by the program's compiled signature, which can name the field, repair without loss, and record that it did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import EnumMeta
from functools import lru_cache
from typing import Any, ClassVar, get_args

import dspy
from dspy.adapters.utils import annotation_allows_none, apply_output_field_defaults, find_enum_member
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter, ValidationError

from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import NotJsonError, read_json
from workers.adapters.dspy.dspy_signature import holds_only_text, is_ours, is_text
from workers.answers.answer_reader import AnswerReader
from workers.answers.candidates import AnswerReading
from workers.answers.characters import replace_halves
from workers.answers.expected import Expected, Form, Output

__all__ = ["ChatPrompt", "JsonPrompt", "UnreadableAnswer", "answer_fields", "expected_of", "read_answer"]


class UnreadableAnswer(AdapterParseError):  # type: ignore[misc]
    """An answer that cannot be used, and what the reader of answers made of it."""

    def __init__(
        self, adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, reading: AnswerReading
    ) -> None:
        super().__init__(type(adapter).__name__, signature, completion, parsed_result=reading.values)
        self.reading = reading


class ChatPrompt(dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's default prompt, one paid call at most: a malformed answer is not asked for again as JSON."""

    form: ClassVar[Form] = "sections"

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return read_answer(self, signature, completion, self.form)


class JsonPrompt(dspy.JSONAdapter):  # type: ignore[misc]
    """DSPy's JSON prompt, with structured outputs where the endpoint has them."""

    form: ClassVar[Form] = "object"

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return read_answer(self, signature, completion, self.form)


def read_answer(adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, form: Form) -> dict[str, Any]:
    """The output fields of an answer. Raises :class:`UnreadableAnswer`."""
    reader = AnswerReader(expected_of(signature, form))
    reader.feed(completion)
    return answer_fields(adapter, signature, completion, reader.end())


def expected_of(
    signature: type[dspy.Signature],
    form: Form,
    names: Mapping[str, str] | None = None,
    fits: Callable[[Mapping[str, Any]], bool] = lambda values: True,
) -> Expected:
    """What an answer by this signature is read for; ``names`` are the program's names of its outputs, by DSPy's."""
    outputs = _outputs(signature, tuple((names or {}).items()))  # type: ignore[arg-type]
    return Expected(form, outputs, frozenset(signature.input_fields), fits)


@lru_cache(maxsize=256)
def _outputs(signature: type[dspy.Signature], names: tuple[tuple[str, str], ...]) -> Mapping[str, Output]:
    defaults = apply_output_field_defaults(signature, {})
    return {
        name: Output(
            is_text=is_text(field) or not is_ours(field),
            is_required=name not in defaults,
            is_nullable=is_ours(field) and annotation_allows_none(field.annotation),
            name=dict(names).get(name) if is_ours(field) or _is_plain_text(field.annotation) else None,
            holds_text=holds_only_text(field),
        )
        for name, field in signature.output_fields.items()
    }


def _is_plain_text(annotation: Any) -> bool:
    """Whether a field of a user's own signature is text. Only those are followed: of others the text is no value."""
    return annotation is str or annotation is dspy.Reasoning or set(get_args(annotation)) == {str, type(None)}


def answer_fields(
    adapter: dspy.Adapter, signature: type[dspy.Signature], completion: str, reading: AnswerReading
) -> dict[str, Any]:
    """The fields of an answer that was read; those that DSPy's modules added, by their annotations, as they expect.

    Raises :class:`UnreadableAnswer`; a field that does not fit its annotation is None in its values.
    """
    found = dict(reading.values)
    misfits = [name for name in found if not is_ours(signature.output_fields[name])]
    for name in tuple(misfits):
        with suppress(ValueError):
            found[name] = _typed(found[name], signature.output_fields[name].annotation)
            misfits.remove(name)
    values: dict[str, Any] = apply_output_field_defaults(signature, found) if reading.is_found else found
    if reading.problem or misfits or values.keys() != signature.output_fields.keys():
        read = {**found, **dict.fromkeys(misfits)}
        raise UnreadableAnswer(adapter, signature, completion, replace(reading, values=read))
    return values


def _typed(value: Any, annotation: Any) -> Any:
    """The value of a field of DSPy's own. Raises ValueError."""
    value = replace_halves(value)  # no validator refuses them, and they would reach the next request
    if annotation is str:
        return value if isinstance(value, str) else getattr(value, "text", None) or json.dumps(value)
    if isinstance(annotation, EnumMeta):
        return _member(annotation, value)
    kind = TypeAdapter(annotation)
    if not isinstance(value, str) or _takes_text(annotation):
        return kind.validate_python(value)
    for candidate in (*_json_in(value), value, _unquoted(value)):
        with suppress(ValidationError):
            return kind.validate_python(candidate)
    raise ValueError("does not fit its type")


def _member(annotation: EnumMeta, value: Any) -> Any:
    """The member with this value, which a number in a section is as text."""
    candidates = (value, *_json_in(value), _unquoted(value)) if isinstance(value, str) else (value,)
    for candidate in candidates:
        with suppress(ValueError):
            return find_enum_member(annotation, candidate)
    raise ValueError("does not fit its type")


def _takes_text(annotation: Any) -> bool:
    return annotation is dspy.Reasoning or {str, type(None)} <= set(get_args(annotation))


def _json_in(text: str) -> tuple[Any, ...]:
    try:
        return (read_json(without_fence(text))[0],)
    except NotJsonError:
        return ()


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
