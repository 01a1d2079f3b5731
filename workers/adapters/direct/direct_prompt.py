"""A program as a request to a model without DSPy: a short instruction, examples as turns, answers as JSON by schema.

Requests are in lm15's canonical form, which its clients turn into each provider's: structured outputs by
``response_format`` for OpenAI's API and compatible ones, ``output_config`` for Anthropic, ``responseJsonSchema`` for
Gemini. For an endpoint that takes no schema, the schema is part of the instruction.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic_core import SchemaValidator
from pydantic_core import ValidationError as CoreError

from dspex.errors import ModelError, ProgramError, ValidationError
from dspex.program.program import Program
from dspex.signatures import Signature
from dspex.signatures.descriptions import described_parts
from dspex.signatures.fields import Field, Type
from dspex.signatures.values.validators import build_validator
from workers.answers.expected import Expected, Output
from workers.lm.connect.endpoint import Endpoint
from workers.lm.request_settings import request_settings

__all__ = ["DirectPrompt", "check_state", "declared", "expected_outputs"]

_Message = dict[str, Any]
#: The types of media, and what an address without a known extension is taken for.
_MEDIA_TYPES = {"image": "image/png", "audio": "audio/wav"}
#: What a predictor's state holds, as ``dspy.Predict.dump_state()`` gives it; the first two matter here.
_STATE_KEYS = frozenset({"demos", "signature", "lm", "traces", "train"})


class DirectPrompt:
    """The common part of the requests of one program to one endpoint.

    Raises ProgramError for a state that does not fit.
    """

    def __init__(self, program: Program, endpoint: Endpoint) -> None:
        self._signature = program.signature
        self._program = program
        dialect = _dialect(endpoint)
        accepted = dialect == "json-schema" or self._signature.provider_fit(dialect).accepted
        by_schema = endpoint.supports_response_schema and accepted
        schema = _bare(self._signature.json_schema("outputs", dialect if by_schema else "json-schema"))
        self._config = dict(_config(program, endpoint))
        instructions, self._demos = _from_state(program)
        self._system = "\n".join(_system(self._signature, instructions))
        if by_schema:
            named = {"name": self._signature.schema_name or "answer", "schema": schema, "strict": True}
            self._config["response_format"] = {"type": "json_schema", **named}
        else:
            self._system += f"\nAnswer with JSON that fits this schema: {json.dumps(schema, ensure_ascii=False)}"
            if "response_format" in endpoint.supported_params:
                self._config["response_format"] = {"type": "json_object"}

    def request(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The request for these validated inputs."""
        plain = json.loads(self._signature.encode("inputs", inputs))  # bytes and times as the text JSON has for them
        messages = [message for demo in self._demos for message in _turns(self._signature, demo)]
        for field in self._signature.input_fields:
            if field.type.name == "history" and plain.get(field.name):
                for turn in plain[field.name]["messages"]:
                    messages += _turns(self._signature, turn)
        messages.append(_asked(self._signature, plain))
        return {
            "model": str(self._program.model),
            "system": self._system,
            "messages": messages,
            **({"config": self._config} if self._config else {}),
        }

    def correction(self, request: Mapping[str, Any], answer: str, words: str, *, more: bool = False) -> dict[str, Any]:
        """The request again, with the answer it got and what is wrong with it; ``more``: with twice the tokens."""
        repair = [_message("assistant", [_text(answer or "(no text)")]), _message("user", [_text(words)])]
        changed: dict[str, Any] = {"messages": [*request["messages"], *repair]}
        if more and "max_tokens" in self._config:
            changed["config"] = {**self._config, "max_tokens": 2 * self._config["max_tokens"]}
        return {**request, **changed}


def expected_outputs(signature: Signature) -> Expected:
    """What answers are read for."""

    def fits(values: Mapping[str, Any]) -> bool:
        try:
            signature.check_outputs(declared(signature, values))
        except ValidationError:
            return False
        return True

    outputs = {field.name: Output.of(field) for field in signature.output_fields}
    return Expected("object", outputs, frozenset(field.name for field in signature.input_fields), fits)


def declared(signature: Signature, values: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs; one that may be missing and came as null is left out, so that its default applies."""
    fields = [field for field in signature.output_fields if field.name in values]
    return {field.name: values[field.name] for field in fields if values[field.name] is not None or field.required}


def _dialect(endpoint: Endpoint) -> str:
    """The dialect of JSON Schema that the endpoint enforces; a server at an address takes the standard."""
    match endpoint.route.definition.dialect:
        case "anthropic" | "gemini" as dialect:
            return str(dialect)
        case _:
            return "openai" if endpoint.route.namespace in ("openai", "azure") else "json-schema"


def _config(program: Program, endpoint: Endpoint) -> Iterator[tuple[str, Any]]:
    """The settings that the program makes. Raises ModelError for one that the model does not take."""
    yield from request_settings(replace(program.main_model, temperature=None, max_tokens=None)).items()
    for name in ("temperature", "max_tokens"):
        value = getattr(program, name)
        if value is None:
            continue
        if name not in endpoint.supported_params:
            raise ModelError(
                f"model {endpoint.model!r} takes no {name}: leave it out of program {program.name!r}",
                code="invalid_request",
                retryable=False,
                model=endpoint.model,
                mentions=[name],
            )
        yield name, value


def _system(signature: Signature, instructions: str) -> Iterator[str]:
    """The instruction, and the descriptions of the fields. Their constraints are in the schema."""
    yield instructions
    for field in (*signature.input_fields, *signature.output_fields):
        yield from (f"{field.name}{path}: {words}" for path, words in described_parts(field))


def _asked(signature: Signature, values: Mapping[str, Any]) -> _Message:
    """Inputs as the user's turn: the only text as it stands, several by name; media as what they are."""
    fields = [f for f in signature.input_fields if f.type.name != "history" and values.get(f.name) is not None]
    texts = [field for field in fields if not _is_media(field, values[field.name])]
    alone = len(texts) == 1 and len(signature.input_fields) == 1
    lines = [_spelled(values[f.name]) if alone else f"{f.name}: {_spelled(values[f.name])}" for f in texts]
    media = [_media(field, values[field.name]) for field in fields if field not in texts]
    return _message("user", [*([_text("\n".join(lines))] if lines else []), *media])


def _turns(signature: Signature, values: Mapping[str, Any]) -> list[_Message]:
    """An example, or a turn of a conversation, as the question and its answer, as far as it has them."""
    answer = {f.name: values[f.name] for f in signature.output_fields if f.name in values}
    asked = _asked(signature, values)
    turns = [asked] if asked["parts"] else []
    if answer:
        turns.append(_message("assistant", [_text(json.dumps(answer, ensure_ascii=False))]))
    return turns


def _is_media(field: Field, value: Any) -> bool:
    """Whether the value is an image or audio as the signature takes it. Turns of a conversation and examples were not
    validated: what is something else there stays text, since a part of a request may name a file of this machine."""
    if field.type.name not in _MEDIA_TYPES:
        return False
    try:
        _validator(field.type).validate_python({"value": value})
    except CoreError:
        return False
    return True


@lru_cache(maxsize=256)
def _validator(kind: Type) -> SchemaValidator:
    return build_validator([Field("value", kind)])


def _media(field: Field, value: Mapping[str, Any]) -> dict[str, Any]:
    kind = field.type.name
    if "url" not in value:
        return {"type": kind, "media_type": value["media_type"], "data": value["data"]}
    url = str(value["url"])
    if url.startswith("data:"):
        head, _, data = url.removeprefix("data:").partition(",")
        return {"type": kind, "media_type": head.partition(";")[0] or _MEDIA_TYPES[kind], "data": data}
    guessed, _ = mimetypes.guess_type(url)
    fits = guessed is not None and guessed.startswith(f"{kind}/")
    return {"type": kind, "media_type": guessed if fits else _MEDIA_TYPES[kind], "url": url}


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _message(role: str, parts: Sequence[dict[str, Any]]) -> _Message:
    return {"role": role, "parts": list(parts)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without the members that describe it as a whole: the instruction does that."""
    return {name: value for name, value in schema.items() if name not in ("$schema", "title", "description")}


# ----------------------------------------------------------------------------------------------------------- the state


def check_state(program: Program) -> None:
    """Raises ProgramError for a state that is not one of a ``dspy.Predict`` with the program's signature."""
    _from_state(program)


def _from_state(program: Program) -> tuple[str, Sequence[Mapping[str, Any]]]:
    """The instruction and the examples of an optimised ``dspy.Predict``, or the signature's own."""
    state = program.state or {}
    if unknown := sorted(set(state) - _STATE_KEYS):
        raise _misfit(program, f"it has {', '.join(map(repr, unknown))}, which a predictor's state does not have")
    described = state.get("signature") or {}
    demos = state.get("demos") or []
    if not isinstance(described, Mapping) or not isinstance(described.get("instructions", ""), str):
        raise _misfit(program, "its signature has no instructions")
    if not isinstance(demos, list | tuple) or not all(isinstance(demo, Mapping) for demo in demos):
        raise _misfit(program, "demos are a list of mappings")
    known = {f.name for f in (*program.signature.input_fields, *program.signature.output_fields)} | {"augmented"}
    if unknown := sorted({str(name) for demo in demos for name in demo} - known):
        raise _misfit(program, f"its demos have {', '.join(map(repr, unknown))}, which the signature does not")
    _check_fields(program, described.get("fields"))
    return described.get("instructions") or program.signature.description or _task(program.signature), demos


def _check_fields(program: Program, fields: Any) -> None:
    count = len(program.signature.input_fields) + len(program.signature.output_fields)
    if fields is not None and (not isinstance(fields, list | tuple) or len(fields) != count):
        raise _misfit(program, f"it describes other fields than the {count} of the signature")


def _misfit(program: Program, why: str) -> ProgramError:
    return ProgramError(
        f"the state of program {program.name!r} does not fit the direct adapter: {why}; it takes the state of a "
        "dspy.Predict with this signature",
        code="state_mismatch",
        program=program.name,
    )


def _task(signature: Signature) -> str:
    inputs = ", ".join(field.name for field in signature.input_fields)
    outputs = ", ".join(field.name for field in signature.output_fields)
    return f"Given {inputs}, answer with {outputs}."
