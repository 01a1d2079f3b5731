"""The compact prompt: a short instruction, examples as chat turns, answers as JSON that fits a schema.

DSPy's prompts describe the form of an answer in words and markers; endpoints with structured outputs enforce it, so
the words are tokens spent for nothing, and small models answer better without them. The schema is sent as
``response_format``; llama.cpp and vLLM compile it to a grammar, hosted providers enforce it themselves. An endpoint
that takes no schema gets it in the instruction instead, with JSON mode if it has one.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import dspy
from dspy.adapters.utils import format_field_value, serialize_for_json
from dspy.clients.base_lm import BaseLM
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from workers.adapters.dspy.dspy_signature import field_parts, field_schema
from workers.adapters.dspy.prompts import read_answer
from workers.answers.expected import Form

__all__ = ["CompactAdapter", "outputs_schema"]


class CompactAdapter(dspy.Adapter):  # type: ignore[misc]
    """Few prompt tokens, typed answers. Stateless: one instance serves any number of runs."""

    form: ClassVar[Form] = "object"

    async def acall(
        self,
        lm: BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        signature = _prepare(lm, lm_kwargs, signature)
        answers: list[dict[str, Any]] = await super().acall(lm, lm_kwargs, signature, demos, inputs)
        return answers

    def __call__(
        self,
        lm: BaseLM,
        lm_kwargs: dict[str, Any],
        signature: type[dspy.Signature],
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        signature = _prepare(lm, lm_kwargs, signature)
        answers: list[dict[str, Any]] = super().__call__(lm, lm_kwargs, signature, demos, inputs)
        return answers

    def format_system_message(self, signature: type[dspy.Signature]) -> str:
        """The instruction, and the descriptions of the fields. The schema enforces the constraints: repeated here, they
        would cost tokens, and small models answer worse."""
        fields = (*signature.input_fields.items(), *signature.output_fields.items())
        described = [f"{name}{path}: {words}" for name, field in fields for path, words in field_parts(field)]
        return "\n".join([signature.instructions.strip(), *described])

    def format_demos(self, signature: type[dspy.Signature], demos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The examples as turns, in their order; one that lacks some outputs is answered with those it has."""
        messages: list[dict[str, Any]] = []
        for demo in demos:
            if demo.keys() & signature.input_fields.keys() and demo.keys() & signature.output_fields.keys():
                asked = self.format_user_message_content(signature, demo)
                answer = self.format_assistant_message_content(signature, demo)
                messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return messages

    def format_user_message_content(
        self,
        signature: type[dspy.Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """The only input as it stands; several by name. ``prefix`` and ``suffix`` are DSPy's, for its own markers."""
        fields = signature.input_fields.items()
        given = {name: (field, inputs[name]) for name, field in fields if inputs.get(name) is not None}
        values = {name: format_field_value(field_info=field, value=value) for name, (field, value) in given.items()}
        if len(signature.input_fields) == 1:
            return "".join(values.values())
        return "\n".join(f"{name}: {value}" for name, value in values.items())

    def format_assistant_message_content(
        self, signature: type[dspy.Signature], outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        answer = {name: serialize_for_json(outputs[name]) for name in signature.output_fields if name in outputs}
        return json.dumps(answer, ensure_ascii=False)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        return read_answer(self, signature, completion, self.form)


def outputs_schema(signature: type[dspy.Signature]) -> dict[str, Any]:
    """The JSON Schema of an answer: every output, in order, and nothing else."""
    properties = {name: _value_schema(field) for name, field in signature.output_fields.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _prepare(lm: BaseLM, lm_kwargs: dict[str, Any], signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Ask for the schema in the form that the endpoint takes; if it takes none, in the instruction."""
    schema = outputs_schema(signature)
    takes_format = "response_format" in lm.supported_params
    if takes_format and lm.supports_response_schema:
        named = {"name": "answer", "schema": schema, "strict": True}
        lm_kwargs["response_format"] = {"type": "json_schema", "json_schema": named}
        return signature
    if takes_format:
        lm_kwargs["response_format"] = {"type": "json_object"}
    words = f"Answer with JSON that fits this schema: {json.dumps(schema, ensure_ascii=False)}"
    instructed: type[dspy.Signature] = signature.with_instructions(f"{signature.instructions.strip()}\n{words}")
    return instructed


def _value_schema(field: FieldInfo) -> dict[str, Any]:
    ours = field_schema(field)
    return TypeAdapter(field.rebuild_annotation()).json_schema() if ours is None else ours
