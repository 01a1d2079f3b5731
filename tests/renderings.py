"""Answers as models write them: the values of a signature in every prompt's form, wrapped, beside drafts, and cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from dspex.errors import ValidationError
from dspex.signatures import Signature
from dspex.signatures.compile import compile_uncached
from dspex.signatures.fields import Field
from tests.unit.signatures.strategies import types, values
from workers.answers.expected import is_text_type

__all__ = ["Written", "is_unmistakable", "written"]

#: Text that is easily taken for something else.
_PIECES = (
    "<think>", "</think>", "{", "}", '"', "'", "[[ ## answer ## ]]", "[[ ## completed ## ]]", "\r\n", "\n", "\u2028",
    "\x85", "007", "1.10", "null", "True", "...", "\\", "\\n", "```", "```json\n", ",", ":", "a", "é", "😀", " ",
    "\x00", "[1]", "</",
)  # fmt: skip
_odd_texts = st.lists(st.sampled_from(_PIECES), max_size=5).map("".join)
_NAMES = ("answer", "second", "third")
#: In sections, the text of a value stands for itself. These are read as marks, or as no value.
_MARKS = re.compile(r"\[\[|<[/|]?\w*>?|null|None|\A[ \t\r\n]|[ \t\r\n]\Z|\A[>\"']|\A:|[*_`'\"~>#-]\Z")


@dataclass(frozen=True)
class Written:
    """``answer`` is what a model wrote for ``values``, by ``prompt``. ``is_plain``: exactly as it was asked to.
    ``is_cut``: the provider said that it is not complete."""

    signature: Signature
    prompt: str
    values: dict[str, Any]
    answer: str
    is_plain: bool
    is_cut: bool


@st.composite
def _signatures(draw: st.DrawFn) -> Signature:
    kinds = draw(st.lists(st.just(None) | types, min_size=1, max_size=3))
    outputs = (f"{kind or ':string'} {name}" for kind, name in zip(kinds, _NAMES, strict=False))
    return compile_uncached(f"signature s: :string question -> {', '.join(outputs)}")


def _values(field: Field) -> st.SearchStrategy[Any]:
    if field.type.name == "string" and not field.type.constraints:
        return values(field.full_type) | _odd_texts
    return values(field.full_type)


@st.composite
def written(draw: st.DrawFn) -> Written:
    """Values of a random signature, and an answer that has them."""
    signature = draw(_signatures())
    prompt = draw(st.sampled_from(["chat", "json", "direct"]))

    def some() -> dict[str, Any]:
        given = {field.name: draw(_values(field)) for field in signature.output_fields}
        try:
            checked = signature.check_outputs(given).values
        except ValidationError:  # some types have checks that the values are not generated for
            reject()
        return dict(json.loads(signature.encode("outputs", checked)))

    is_odd = draw(st.booleans())
    render = draw(st.sampled_from(_SECTIONS if prompt == "chat" else _OBJECTS)) if is_odd else _plain(prompt)
    meant = some()
    answer = render(signature, meant)
    if is_odd:
        draft = draw(st.sampled_from(_SECTIONS if prompt == "chat" else _OBJECTS))(signature, some())
        answer = draw(st.sampled_from(_WRAPPED))(answer, draft)
    is_cut = draw(st.booleans()) and draw(st.booleans())
    if is_cut:
        answer = answer[: draw(st.integers(0, len(answer)))]
    return Written(signature, prompt, meant, answer, not is_odd and not is_cut, is_cut)


_Render = Callable[[Signature, Mapping[str, Any]], str]


def _plain(prompt: str) -> _Render:
    return _SECTIONS[0] if prompt == "chat" else _OBJECTS[0]


# ---------------------------------------------------------------------------------------------------------- objects


def _comma(_: Signature, given: Mapping[str, Any]) -> str:
    return f"{json.dumps(given)[:-1]},}}"


_OBJECTS: tuple[_Render, ...] = (
    lambda _, given: json.dumps(given),
    lambda _, given: json.dumps(given, ensure_ascii=False, indent=2),
    lambda _, given: repr(dict(given)),
    lambda _, given: json.dumps(json.dumps(given)),
    lambda _, given: f"[{json.dumps(given)}]",
    lambda _, given: json.dumps({**given, "else": "}"}),
    lambda _, given: re.sub(r'"(\w+)": ', r"\1: ", json.dumps(given)),
    _comma,
)


# --------------------------------------------------------------------------------------------------------- sections


def _in_sections(header: str, end: str, between: str) -> _Render:
    def render(signature: Signature, given: Mapping[str, Any]) -> str:
        parts = [header.format(f.name) + _spelled(f, given[f.name]) + between for f in signature.output_fields]
        return "".join(parts) + end

    return render


def _spelled(field: Field, value: Any) -> str:
    """The value as DSPy asks for it: text as it stands, anything else as JSON."""
    if is_text_type(field.full_type) and value is not None:
        return str(value)
    return json.dumps(value)


_SECTIONS: tuple[_Render, ...] = (
    _in_sections("[[ ## {} ## ]]\n", "[[ ## completed ## ]]", "\n\n"),
    _in_sections("[[##{}##]]\n", "[[##completed##]]", "\n"),
    _in_sections("**[[ ## {} ## ]]**\n", "**[[ ## completed ## ]]**", "\n"),
    _in_sections("`[[ ## {} ## ]]`\n", "`[[ ## completed ## ]]`", "\n\n"),
    _in_sections("[[ ## {} ## ]] ", "[[ ## completed ## ]]", " "),
    _in_sections("[[ ## {} ## ]]: ", "", "\r\n"),
    _in_sections("### [[ ## {} ## ]]\n", "<|im_end|>", "\n"),
)


def is_unmistakable(written: Written) -> bool:
    """Whether sections can hold the values: text with marks, or that a union also has as JSON, has two meanings."""
    if written.prompt != "chat":
        return True
    for field in written.signature.output_fields:
        value = written.values[field.name]
        if isinstance(value, str) and (not is_text_type(field.full_type) or _MARKS.search(value) or not value):
            return False
        if value is None and is_text_type(field.full_type):
            return False
    return True


# ---------------------------------------------------------------------------------------------------------- wrapped

_WRAPPED: tuple[Callable[[str, str], str], ...] = (
    lambda answer, _: answer,
    lambda answer, _: f"Sure, here it is:\n{answer}",
    lambda answer, _: f"```json\n{answer}\n```",
    lambda answer, draft: f"<think>\n{draft}\n</think>\n{answer}",
    lambda answer, draft: f"<think>{draft[: len(draft) // 2]}</think>{answer}",
    lambda answer, draft: f"{draft}\n</think>\n{answer}",
    lambda answer, draft: f"{draft[: len(draft) // 2]}\n</think>\n\n{answer}",
    lambda answer, draft: f"[THINK]{draft}[/THINK]{answer}",
    lambda answer, draft: f"{draft}\n{answer}",
    lambda answer, draft: f"{answer}\n<think>{draft}</think>",
    lambda answer, draft: f"{answer}\n<think>{draft}",
    lambda answer, draft: (
        f"<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    ),
)
