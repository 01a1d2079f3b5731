"""The repair call: a bad answer goes back to the model once, with its faults, before the attempt fails.

It happens where the answer is read, in the middle of the program: a module of several steps goes on with the repaired
answer. An answer is bad when its fields cannot be found, or when it has all outputs of the program and they break its
signature. The repair is a model call like any other: journaled, counted, limited, paid for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import dspy
from dspy.adapters.utils import apply_output_field_defaults
from dspy.clients.base_lm import BaseLM
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from dspex.errors import FieldError, ValidationError
from dspex.signatures import Signature
from workers.adapters.dspy.compact_prompt import CompactAdapter
from workers.adapters.dspy.dspy_signature import dspy_names, field_schema
from workers.adapters.dspy.engine_bridge import current_run
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt, UnreadableAnswer, answer_fields, expected_of
from workers.adapters.dspy.user_text import UserTextPrompt
from workers.answers.answer_reader import AnswerReader
from workers.answers.candidates import NO_TEXT, AnswerReading
from workers.answers.characters import replace_halves
from workers.answers.expected import Expected, Form
from workers.lm.engine import RunEngine
from workers.lm.exchange import Exchange, begin_exchange, current_exchange
from workers.observe.redact import fields_at_fault

__all__ = ["RepairingChat", "RepairingCompact", "RepairingJson", "RepairingPrompt", "declared_outputs"]

_Answers = list[dict[str, Any]]


class _BreaksSignature(Exception):
    """The answer can be read, and its values break the program's signature."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__()
        self.error = error


_BAD = (AdapterParseError, _BreaksSignature)


class RepairingPrompt(UserTextPrompt, dspy.Adapter):  # type: ignore[misc]
    """Put before one of our prompts, it sends a bad answer back once. One instance belongs to one run."""

    form: ClassVar[Form]

    def __init__(self, engine: RunEngine | None = None) -> None:
        """``engine`` is the current run's by default, for modules of DSPy that make an adapter of the same class."""
        super().__init__()
        self._engine = engine or _current_engine()

    async def acall(
        self, lm: BaseLM, lm_kwargs: dict[str, Any], signature: type[dspy.Signature], *rest: Any, **named: Any
    ) -> _Answers:
        with self._exchange(signature) as exchange:
            try:
                return await super().acall(lm, dict(lm_kwargs), signature, *rest, **named)  # type: ignore[no-any-return]
            except _BAD as error:
                bad = self._send_back(exchange, signature, error)
            with self._repair(exchange, bad):
                return await super().acall(lm, self._more_tokens(exchange, lm_kwargs), signature, *rest, **named)  # type: ignore[no-any-return]

    def __call__(
        self, lm: BaseLM, lm_kwargs: dict[str, Any], signature: type[dspy.Signature], *rest: Any, **named: Any
    ) -> _Answers:
        with self._exchange(signature) as exchange:
            try:
                return super().__call__(lm, dict(lm_kwargs), signature, *rest, **named)  # type: ignore[no-any-return]
            except _BAD as error:
                bad = self._send_back(exchange, signature, error)
            with self._repair(exchange, bad):
                return super().__call__(lm, self._more_tokens(exchange, lm_kwargs), signature, *rest, **named)  # type: ignore[no-any-return]

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The conversation; in a repair, with the bad answer and its faults."""
        messages: list[dict[str, Any]] = inspect.unwrap(super().format.__func__)(self, signature, demos, inputs)  # type: ignore[attr-defined]
        exchange = current_exchange.get()
        if exchange is not None and exchange.is_repair:
            # Providers refuse an empty turn, and half a character.
            answer = replace_halves(exchange.answer) or "(no text)"
            asked = "\n".join(self._words(exchange, signature))
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": asked}]
        return messages

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """The answer's fields. The values of a repair are validated with the outputs."""
        exchange = current_exchange.get()
        if exchange is not None and not exchange.is_repair:
            exchange.answer = completion
        reading = self._reading(exchange, signature, completion)
        values = answer_fields(self, signature, completion, reading)
        error = _judge(self._engine.run.program.signature, signature, values)
        if error is None or exchange is None:
            self._note(signature, reading)
        elif not exchange.is_repair:
            raise _BreaksSignature(error)
        else:
            self._reject(exchange)
        return values

    def _reading(self, exchange: Exchange | None, signature: type[dspy.Signature], completion: str) -> AnswerReading:
        """What the answer says: read by the engine, unless DSPy has changed the text."""
        if exchange is not None and completion in exchange.readings:
            return exchange.readings[completion]
        reader = AnswerReader(self._expected(signature))
        reader.feed(completion)
        accepts_cut = self._engine.run.program.on_cut == "accept"
        if exchange is None:
            return reader.end(accepts_cut=accepts_cut)
        return reader.end(is_cut=exchange.was_cut, accepts_cut=accepts_cut, is_end_unknown=exchange.is_end_unknown)

    def _note(self, signature: type[dspy.Signature], reading: AnswerReading) -> None:
        names = _by_dspy_name(self._engine.run.program.signature)
        self._engine.run.repairs.extend((names.get(name, name), repair) for name, repair in reading.repairs)

    @contextmanager
    def _exchange(self, signature: type[dspy.Signature]) -> Iterator[Exchange]:
        """An exchange. Its answers are followed if they have the program's outputs, also in a user's own step."""
        is_followed = _names_outputs(self._engine.run.program.signature, signature)
        with begin_exchange(self._expected(signature), is_followed=is_followed) as exchange:
            yield exchange

    def _expected(self, signature: type[dspy.Signature]) -> Expected:
        program = self._engine.run.program.signature

        def fits(values: Mapping[str, Any]) -> bool:
            try:
                read = answer_fields(self, signature, "", AnswerReading(dict(values), is_found=True))
            except AdapterParseError:
                return False
            return _judge(program, signature, read) is None

        return expected_of(signature, self.form, _by_dspy_name(program), fits)

    def _more_tokens(self, exchange: Exchange, lm_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the repair: an answer that was cut off may be twice as long."""
        most = lm_kwargs.get("max_tokens") or self._engine.run.program.max_tokens
        return {**lm_kwargs, "max_tokens": 2 * most} if exchange.was_cut and most else dict(lm_kwargs)

    def _send_back(
        self, exchange: Exchange, signature: type[dspy.Signature], bad: AdapterParseError | _BreaksSignature
    ) -> AdapterParseError | ValidationError:
        """Make the next call of the exchange the repair. Returns the error of the bad answer, for when that fails."""
        run = self._engine.run
        if isinstance(bad, AdapterParseError):
            exchange.faults = _misreadings(run.program.signature, signature, bad)
        else:
            exchange.faults = bad.error.errors
        run.trail.record("output_validation", valid=False, fields=fields_at_fault(exchange.faults), repair=True)
        return bad if isinstance(bad, AdapterParseError) else _output_invalid(bad.error)

    @contextmanager
    def _repair(self, exchange: Exchange, bad: AdapterParseError | ValidationError) -> Iterator[None]:
        try:
            yield
        except AdapterParseError:
            self._reject(exchange)
            raise
        except ContextWindowExceededError:
            self._reject(exchange)
            raise bad from None

    def _reject(self, exchange: Exchange) -> None:
        self._engine.run.journal.reject(exchange.requests)

    def _words(self, exchange: Exchange, signature: type[dspy.Signature]) -> Iterator[str]:
        yield from exchange.correction(was_cut=exchange.was_cut)
        if isinstance(self, dspy.ChatAdapter):
            yield self.user_message_output_requirements(signature)


def _once(*adapters: type[RepairingPrompt]) -> None:
    """DSPy reports ``format`` and ``parse`` to callbacks once for each class of a hierarchy: here once."""
    for adapter in adapters:
        for name in ("format", "parse"):
            setattr(adapter, name, with_callbacks(inspect.unwrap(getattr(adapter, name))))


def _current_engine() -> RunEngine:
    hosted = current_run.get()
    if hosted is None:
        raise RuntimeError("this adapter is for the runs of a worker")
    return hosted.engine


class RepairingChat(RepairingPrompt, ChatPrompt):
    """DSPy's default prompt."""


class RepairingJson(RepairingPrompt, JsonPrompt):
    """DSPy's JSON prompt."""


class RepairingCompact(RepairingPrompt, CompactAdapter):
    """The compact prompt."""


_once(RepairingChat, RepairingJson, RepairingCompact)


def declared_outputs(program: Signature, values: Mapping[str, Any]) -> dict[str, Any]:
    """The program's outputs among the values that DSPy has, under the program's names.

    One that may be missing and came as null is left out, so that its default applies.
    """
    names = dspy_names(program)
    found = [(field, values[names[field.name]]) for field in program.output_fields if names[field.name] in values]
    return {field.name: value for field, value in found if value is not None or field.required}


def _judge(program: Signature, signature: type[dspy.Signature], values: Mapping[str, Any]) -> ValidationError | None:
    """The faults by the program's signature; None when there are none, or these are outputs of an inner step."""
    if not _has_outputs(program, signature):
        return None
    try:
        program.check_outputs(declared_outputs(program, values))
    except ValidationError as error:
        return error
    return None


def _has_outputs(program: Signature, signature: type[dspy.Signature]) -> bool:
    """Whether an answer by this signature has all outputs of the program."""
    return all(_is_programs(signature, name) for name in _output_names(program))


def _names_outputs(program: Signature, signature: type[dspy.Signature]) -> bool:
    """Whether a signature, which may be one of the user's own code, has outputs with the names of the program's."""
    return all(name in signature.output_fields for name in _output_names(program))


def _output_names(program: Signature) -> list[str]:
    names = dspy_names(program)
    return [names[field.name] for field in program.output_fields]


def _by_dspy_name(program: Signature) -> dict[str, str]:
    """The names of the outputs by their names in DSPy."""
    names = dspy_names(program)
    return {names[field.name]: field.name for field in program.output_fields}


def _is_programs(signature: type[dspy.Signature], name: str) -> bool:
    field = signature.output_fields.get(name)
    return field is not None and field_schema(field) is not None


def _misreadings(program: Signature, signature: type[dspy.Signature], error: AdapterParseError) -> Sequence[FieldError]:
    """The faults of an answer whose fields could not be found, field by field."""
    if not isinstance(error, UnreadableAnswer):  # DSPy's own, for an answer without text
        return [NO_TEXT]
    if error.reading.faults:
        return error.reading.faults
    found = error.parsed_result or {}
    unreadable = [name for name, value in found.items() if value is None and not _is_programs(signature, name)]
    if unreadable:
        return [FieldError(name, "a value of its type", "something else") for name in unreadable]
    judged = _judge(program, signature, found)
    known = list(judged.errors) if judged else []
    faulty = {fault.path for fault in known}
    complete = apply_output_field_defaults(signature, dict(found)) if error.reading.is_found else found
    missing = [name for name in signature.output_fields if name not in complete and name not in faulty]
    return known + [FieldError(name, "a value", "nothing") for name in missing]


def _output_invalid(error: ValidationError) -> ValidationError:
    return ValidationError(str(error), code="output_invalid", retryable=True, **error.details)
