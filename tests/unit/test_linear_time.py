"""Whatever reads a model's answer or a user's text takes time in proportion to its length.

A reader that takes quadratic time holds the interpreter's lock for minutes on an answer of a megabyte, and with it the
lease, the pump and the watchdog of its worker. Each reader gets texts that make backtracking patterns and repeated
scans slow, in sizes that are doubled twice at a time.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError

from dspex import signature
from dspex.errors import DspexError, FieldError, ProgramError, ValidationError
from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import read_json
from dspex.signatures.values.value_checks import FORMATS
from workers.adapters.dspy.compact_prompt import CompactAdapter
from workers.adapters.dspy.dspy_signature import dspy_signature
from workers.adapters.dspy.linear_readers import code_in_fence, code_of_program, repaired
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt
from workers.adapters.dspy.user_text import UserTextPrompt
from workers.answers.answer_reader import AnswerReader
from workers.answers.expected import Expected, Form, Output
from workers.attempt.settlement import stored_error
from workers.attempt.stream import AttemptStream, Streams
from workers.lm.exchange import Exchange
from workers.observe.redact import fields_at_fault, redact

Read = Callable[[str], object]

#: The tests read up to ``LARGEST_TESTED`` characters. Quadratic time that does not show by then is less than a tenth of
#: a second for a megabyte. ``make linear`` reads up to ``LARGEST``.
SMALLEST, LARGEST_TESTED, LARGEST = 2**9, 2**17, 2**19
#: Growth when the length is doubled twice: 4 is linear, 16 quadratic.
MOST_GROWTH = 9
#: A shorter time is noise, and is not compared. After a longer time that was compared, no larger text is read.
LEAST_SECONDS, ENOUGH_SECONDS = 0.0003, 0.002

#: Texts: the part before, the part that is repeated, the part after.
FENCES = [
    ("```json", "\n", "x"), ("```json", " ", "x"), ("```json\n", " \n", "x"), ("", "```", ""), ("", "```\n", "x"),
    ("```json\n", "\n```", "x"), ("```", "a", ""), ("```\n", "a\n", "```"), ("", " ", ""), ("", "\n", "x"),
]  # fmt: skip
OBJECTS = [
    ("", "{ x", ""), ("", "{", ""), ('{"a":[', '{"', ""), ('{"a":"', "{a:", ""), ("", "{'", ""), ("", '["a" "b"', ""),
    ("", "[", ""), ("", '{"a":', ""), ("", '"', ""), ("", "\\", ""), ('{"a":"', "\\", ""), ('{"a":', "1", "}"),
    ('{"a":', "1", "x"), ("{", " ", "x"), ("{", ",", "x"), ('{"a"', " ", "x"), ('{"a":', " ", "x"), ('{"', "k", ""),
    ('{"', "k", '":1}'), ('{"a":"', "\\u", ""), ('{"a":"', "\\ud83d", ""), ('{"a":"', "\\uZ", ""), ('{"a":[', "1,", ""),
    ('{"a":[', '"b",', ""), ('{"a":["', "\\uZ", ""), ("{", '"a":1,', ""), ("", '{"a":1}', ""), ('{"a":1}', " ", '"'),
    ('{"a":"', "x", '"}'), ('{"args":"', "{'", '"}'), ('{"tool":"', "{'", '"}'), ('{"reasoning":"', "{'", '"}'),
]  # fmt: skip
SECTIONS = [
    ("", "[[ ## ", ""), ("[[ ## ", "a", ""), ("[[ ## a ## ]]\n", " ", "x"), ("[[ ## a ## ]]\nx", " ", "x"),
    ("", "[[ ## a ## ]]", ""), ("", "[[ ## a ## ]]\n", ""), ("[[ ## a ## ]]\n", "\n", "x"), ("", "\r", "x"),
    ("[[ ## a ## ]]\n", "1,", ""), ("[[ ## a ## ]]\n", "(", ""), ("[[ ## a ## ]]\n", "1+", "1"),
    ("[[ ## a ## ]]\n", "-", "1"), ("[[ ## a ## ]]\n", "{'", ""), ("[[ ## args ## ]]\n", "{'", ""),
    ("[[ ## tool ## ]]\n", "{'", ""), ("[[ ## reasoning ## ]]\n", "{'", ""), ("[[ ## args ## ]]\n", "{ x", ""),
]  # fmt: skip
REASONING = [
    ("", "<", ""), ("", "<think", ""), ("", "<think>", ""), ("", "</think>", ""), ("<think ", "a", ""), ("", "<|", ""),
    ('{"a":"', "</think>", "x"), ('{"a":"', "</think>", ""), ('{"a":"', '</think>{"a":"', ""),
    ("", '{"a":1}</think>', ""),
    ("", '{"a":{x</think>', ""), ("[[ ## args ## ]]\n", "</think>", ""), ("[[ ## args ## ]]\n", "x </think>\n", ""),
    ("[[ ## args ## ]]\n", "<|im_end|>", ""), ("[[ ## args ## ]]\n", "<|im_end|>", "x"), ("", "<|channel|>", ""),
    ("[[ ## args ## ]]\n", "*", ""), ("", "**[[ ## args ## ]]**", ""), ("[[ ## args ## ]]\n", " [[", ""), ("", "◁", ""),
    ("[[ ## args ## ]]\n", "\n<think>x</think>", ""), ("", "[[ ## args ## ]] x [[ ## completed ## ]]\n", ""),
]  # fmt: skip
SCALARS = [
    ("", "1", ""), ("", "1", "."), ("", "0", "%"), ("", "-", "1"), ("1e", "1", ""), ("P", "1", ""), ("P", "1Y1M", ""),
    ("a@", "a.", ""), ("a@", "a-", ""), ("a@", "a.", "!"), ("", "a", "@"), ("", "a.", ""), ("", "1.", ""),
    ("", ":", ""), ("", "1:", ""), ("a:", "a", " "), ("", "{", ""), ("", "{a}", ""), ("", "{a", ""), ("{a", "!", ""),
    ("", "{a:{", ""), ("", "{{", "}"), ("00:00:00.", "0", ""), ("2025-01-01T00:00:00.", "0", ""), ("", "A", "="),
    ("", "é", ""), ("2025-01-01 00:00", " ", "x"), ("", '"', "x"), ("", "'", ""), ("", "`", "x"), ("", "ß", "."),
]  # fmt: skip
SECRETS = [
    ("password", " ", ""), ("password", " ", "x"), ("", "password ", ""), ("", "token:", ""), ("token:", " ", ""),
    ("token", "\n", ""), ("", "token = ", ""), ("", "://", ""), ("://", "a", ""), ("", "://a", ""), ("", "sk-", ""),
    ("", "sk-aaaaaaa ", ""), ("sk-", "a", ""), ("bearer", '"', ""), ("", "api_", ""), ("a", "\\", "\0"),
]  # fmt: skip
MARKERS = [
    ("", "<<CUSTOM-TYPE-START-IDENTIFIER>>", ""), ("", "<<CUSTOM-TYPE-END-IDENTIFIER>>", ""),
    ("<<CUSTOM-TYPE-START-IDENTIFIER>>", "{'", "<<CUSTOM-TYPE-END-IDENTIFIER>>"),
    ("<<CUSTOM", "~", "-TYPE-"), ("", "<<CUSTOM~", ""), ("", "<<CUSTOM~-TYPE-", ""),
]  # fmt: skip


#: Parameters of glibc's mallopt, and its largest threshold.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST_THRESHOLD = -1, -3, 2**25


@pytest.fixture(autouse=True, scope="module")
def _memory_is_kept() -> None:
    """A large text is put into memory that was used before: what the kernel needs to give new memory is not linear."""
    if sys.platform == "linux":
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            assert ctypes.CDLL(None).mallopt(parameter, LARGEST_THRESHOLD) == 1


def check_growth(read: Read, text: tuple[str, str, str], largest: int) -> None:
    """Fails if the time to read the text grows faster than its length.

    One step of the time, as where a text outgrows a cache, is not enough: the time must go on to grow after it.
    """
    seconds = [0.0, 0.0]
    size = SMALLEST
    while size <= largest and (seconds[-1] < ENOUGH_SECONDS or seconds[-2] < LEAST_SECONDS):
        most = seconds[-1] * MOST_GROWTH if seconds[-1] >= LEAST_SECONDS else float("inf")
        seconds.append(_best(read, _content(text, size), most))
        if seconds[-1] > most:
            most = seconds[-1] * MOST_GROWTH
            seconds.append(_best(read, _content(text, 4 * size), most))
            assert seconds[-1] <= most, f"{text}, up to {size} and {4 * size} characters: {seconds[2:]}"
        size *= 4


def _content(text: tuple[str, str, str], size: int) -> str:
    before, repeated, after = text
    return before + repeated * (size // len(repeated)) + after


def _best(read: Read, content: str, most: float) -> float:
    """The CPU time; the shortest of five measurements while it is above ``most``, of two of a short time."""
    best = float("inf")
    for repeated in range(5):
        began = time.process_time()
        with suppress(AdapterParseError, DspexError, ValueError):
            read(content)
        best = min(best, time.process_time() - began)
        if best <= most and (repeated or best >= ENOUGH_SECONDS):
            break
    return best


class Published:
    """An answer that keeps nothing."""

    def text(self, field: str, more: str) -> None:
        """Text of a field."""

    def field(self, name: str, value: Any) -> None:
        """The value of a field."""


def whole(form: Form) -> Read:
    def read(text: str) -> None:
        reader = AnswerReader(expected(form))
        reader.feed(text)
        reader.end()

    return read


def in_pieces(form: Form) -> Read:
    """As followers see it."""

    def read(text: str) -> None:
        reader = AnswerReader(expected(form), Published)
        for at in range(0, len(text), 4):
            reader.feed(text[at : at + 4])
        reader.end()

    return read


def expected(form: Form) -> Expected:
    return Expected(form, {"a": Output(False, name="a"), "args": Output(True, name="args")})


def published(text: str) -> None:
    """A stream in pieces, with a publish now and then, and once from the beginning."""
    stream = AttemptStream(Streams("redis://localhost:1"), UUID(int=1), 1)
    answer = stream.answer()
    for at in range(0, len(text), 4):
        answer.text("a", text[at : at + 4])
        if at % (len(text) // 8 * 4 or 4) == 0:
            list(stream.news())
    stream.rewind()
    list(stream.news())


#: A field of the program, and fields that DSPy's modules add, with annotations of their own.
MADE = (
    dspy_signature(signature("signature p: :string q -> :list(:integer) a"))
    .append("args", dspy.OutputField(), dict[str, Any])
    .append("tool", dspy.OutputField(), Literal["one", "two"])
    .append("reasoning", dspy.OutputField(), dspy.Reasoning)
)


class TextPrompt(UserTextPrompt, CompactAdapter):
    """A prompt as a run has it."""


def asked(text: str) -> None:
    """A prompt made of a user's text, once in a list, and an image."""
    TextPrompt().format(ASKED, [], {"picture": dspy.Image("https://example.com/a.png"), "q": [text, text]})


ASKED = dspy_signature(signature("signature p: :image picture, :list(:string) q -> :string a"))
PROMPTS = {"chat": ChatPrompt(), "json": JsonPrompt(), "compact": CompactAdapter()}

#: Code that a model writes, in fences.
CODE = [
    ("", "```python a", ""), ("", "```python a", "\n```"), ("```python ", "a = 1\n", ""), ("", "```", ""),
    ("", "`", "\n"), ("", "```a", "\nb"), ("```\n", "a", ""), ("a", "b", " ="), ("a", " ", "x"), ("", "---", "```"),
]  # fmt: skip

READERS: dict[str, tuple[Read, list[tuple[str, str, str]], int]] = {
    "fence": (without_fence, FENCES, LARGEST),
    "JSON": (read_json, FENCES + OBJECTS, LARGEST),
    "object": (whole("object"), FENCES + OBJECTS + REASONING, LARGEST),
    "object in pieces": (in_pieces("object"), FENCES + OBJECTS + REASONING, LARGEST // 8),
    "sections": (whole("sections"), SECTIONS + REASONING, LARGEST),
    "sections in pieces": (in_pieces("sections"), SECTIONS + REASONING, LARGEST // 8),
    "stream": (published, [("", "a", "")], LARGEST),
    "question": (asked, MARKERS, LARGEST),
    "redaction": (redact, SECRETS, LARGEST),
    "stored error": (lambda text: stored_error(ProgramError(text)), SECRETS, LARGEST),
    "json_repair in DSPy": (repaired, FENCES + OBJECTS, LARGEST),
    "code of a program of thought": (code_of_program, CODE, LARGEST),
    "code of dspy.Code": (code_in_fence, CODE, LARGEST),
    "fields at fault": (
        lambda text: fields_at_fault([FieldError(text, "x")]),
        [("", "[", ""), ("", "a.", "")],
        LARGEST,
    ),
    **{
        f"{name} prompt": (
            lambda text, prompt=prompt: prompt.parse(MADE, text),  # type: ignore[misc]
            SECTIONS if name == "chat" else FENCES + OBJECTS,
            LARGEST // 4,
        )
        for name, prompt in PROMPTS.items()
    },
}

TYPES = [
    ":integer", ":float", ":probability", ":boolean", ":datetime", ":date", ":duration", ":decimal",
    ":uuid", ":ipv6", ":binary", ":map", ":any", ":atom", ":image", ":prompt_template",
    ':enum("a", "b")', ":list(:integer)", ":optional(:integer)", ":union(:integer, :boolean)",
    ':string(one_of=["a", "b"])', ':string(pattern="(a|b|ab)*c")', ':string(pattern="(a{30}){30}")',
    ':string(pattern="[a-f0-9:.]{999}$")', *(f':string(format="{name}")' for name in FORMATS),
]  # fmt: skip


def test_quadratic_time_is_found() -> None:
    """What else the machine does may hide it from one run, and not from five."""
    with pytest.raises(AssertionError, match="characters"):
        _check_five_times(lambda text: [text.find("x", at) for at in range(0, len(text), 16)])


def _check_five_times(read: Read) -> None:
    for _ in range(5):
        check_growth(read, ("", "a", ""), LARGEST)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_linear_time(name: str) -> None:
    read, texts, largest = READERS[name]
    for text in texts:
        check_growth(read, text, min(largest, LARGEST_TESTED))


@pytest.mark.parametrize("kind", TYPES)
def test_values_are_checked_and_repaired_in_linear_time(kind: str) -> None:
    compiled = signature(f"signature p: {kind} given -> {kind} found")
    for text in [*FENCES, *SCALARS, ("", "[", ""), ("", '{"a":', "")]:
        check_growth(lambda content: compiled.check_outputs({"found": content}), text, LARGEST_TESTED)
        check_growth(lambda content: compiled.validate_inputs({"given": content}), text, LARGEST_TESTED)


@pytest.mark.parametrize("text", [("[", '"1",', "1]"), ("[", '"x",', "1]"), ("[", "[],", "1]")], ids=str)
def test_faults_of_many_values_are_found_and_reported_in_linear_time(text: tuple[str, str, str]) -> None:
    compiled = signature("signature p: :string q -> :list(:integer) found")

    def read(content: str) -> None:
        try:
            compiled.check_outputs({"found": content})
        except ValidationError as error:
            fields_at_fault(error.errors)
            "\n".join(Exchange(faults=error.errors).correction(was_cut=True))

    check_growth(read, text, LARGEST // 16)
