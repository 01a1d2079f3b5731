"""The built-in types of the signature language."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from dspex.signatures.fields import Type
from dspex.signatures.types.constraints import CONSTRAINT_RULES
from dspex.signatures.types.type_registry import TypeSpec, build, register
from dspex.signatures.values import text_forms, value_checks

MAX_TEXT = 2**31 - 1
"""The length limit of all text: with a limit, pydantic_core also rejects lone surrogates."""


def _primitive(name: str, phrase: str, doc: str, **more: Any) -> None:
    register(TypeSpec(name, doc, phrase, frozenset(CONSTRAINT_RULES.get(name, ())), **more))


def _derived(name: str, phrase: str, doc: str, base: Type, constraints: str = "", **more: Any) -> None:
    register(TypeSpec(name, doc, phrase, frozenset(constraints.split()), base=base, **more))


def _plain(function: Any) -> dict[str, Any]:
    return {"type": "function-plain", "function": {"type": "no-info", "function": function}}


STRING = {"type": "str", "strict": True, "max_length": MAX_TEXT}
ANY = _plain(value_checks.is_json)

_primitive("string", "text", "Text, kept exactly as it is.", core=STRING, json={"type": "string"}, python=str)
_primitive(
    "integer",
    "an integer",
    "An integer of at most 64 bits.",
    core={"type": "int", "strict": True, "ge": value_checks.INT_MIN, "le": value_checks.INT_MAX},
    json={"type": "integer"},
    python=int,
)
_primitive(
    "float",
    "a finite number",
    "A finite number; integers are numbers too.",
    core={"type": "float", "strict": True, "allow_inf_nan": False},
    json={"type": "number"},
    python=float,
)
_primitive(
    "boolean",
    "true or false",
    "True or false, and never 0 or 1.",
    core={"type": "bool", "strict": True},
    json={"type": "boolean"},
    python=bool,
)
_primitive("any", "a JSON value", "Any JSON value, null included.", core=ANY, json={}, python=Any)
_primitive(
    "map",
    "a map with text as keys",
    "A JSON object with any keys and values.",
    core={"type": "dict", "strict": True, "keys_schema": STRING, "values_schema": ANY},
    json={"type": "object"},
    python=dict[str, Any],
)
_primitive(
    "binary",
    "bytes, or their base64 text",
    "Bytes; base64 text in JSON.",
    core={
        "type": "function-before",
        "function": {"type": "no-info", "function": text_forms.read_bytes},
        "schema": {"type": "bytes", "strict": True},
    },
    from_text=base64.b64decode,
    json={"type": "string", "contentEncoding": "base64"},
    python=bytes,
)


def _text_form(
    name: str, phrase: str, doc: str, python: type, read: Callable[[Any], Any], from_text: Any = None, **json: str
) -> None:
    """A type that is text in JSON: ``read`` accepts values, ``from_text`` (by default the same) decodes them."""
    schema = {"type": "string", **json}
    _primitive(name, phrase, doc, core=_plain(read), json=schema, python=python, from_text=from_text or read)


_text_form(
    "datetime",
    "a datetime, or its ISO 8601 text",
    "A date and time; ISO 8601 text in JSON.",
    datetime,
    text_forms.read_datetime,
    datetime.fromisoformat,
    format="date-time",
)
_text_form(
    "date", "a date, or its ISO 8601 text", "A date; ISO 8601 text in JSON.", date, text_forms.read_date, format="date"
)
_text_form(
    "time",
    "a time of day, or its ISO 8601 text",
    "A time of day; ISO 8601 text in JSON.",
    time,
    text_forms.read_time,
    time.fromisoformat,
    format="time",
)
_text_form(
    "duration",
    "a timedelta, or its ISO 8601 text",
    "A length of time, a `timedelta`; ISO 8601 text in JSON, without years and months: `P1DT2H30M`.",
    timedelta,
    text_forms.read_duration,
    format="duration",
)
_text_form(
    "decimal",
    "a Decimal, or its text",
    "A `Decimal`, of which every decimal is kept; text in JSON: `19.90`.",
    Decimal,
    text_forms.read_decimal,
    pattern="^-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]{1,4})?$",
)
_text_form("uuid", "a UUID, or its text", "A UUID; text in JSON.", UUID, text_forms.read_uuid, format="uuid")
_text_form(
    "ipv4",
    "an IPv4 address, or its text",
    "An `ipaddress.IPv4Address`; text in JSON.",
    IPv4Address,
    text_forms.read_ipv4,
    format="ipv4",
)
_text_form(
    "ipv6",
    "an IPv6 address, or its text",
    "An `ipaddress.IPv6Address`; text in JSON.",
    IPv6Address,
    text_forms.read_ipv6,
    format="ipv6",
)
_primitive("enum", "one of its values", 'One of the given texts: `:enum("a", "b")`.')
_primitive("list", "a list", "A list of values of one type: `:list(T)`.")
_primitive("dict", "a map with text as keys", "A map from a kind of text to values of one type: `:dict(K, V)`.")
_primitive("union", "a value of one of its types", "A value of one of several types: `:union(A, B)`.")
_primitive("optional", "a value or null", "A value that may be null or left out: `:optional(T)`.")
_primitive(
    "tagged",
    'a map with "tag" and "value"',
    'A value with a tag for its type: `:tagged("a", A, "b", B)` is `{"tag": "a", "value": …}`.',
)
_primitive(
    "object", "a map with just its keys", "A map with the given keys: `:object(name=:string, age=:optional(:integer))`."
)

_TEXT_RULES = "min_length max_length pattern format one_of"
_NUMBER_RULES = "min max multiple_of precision one_of"
_SHARE = build("float", given={"min": 0, "max": 1})

_derived(
    "atom",
    "an identifier",
    "An identifier: ASCII letters, digits and underscores, not beginning with a digit.",
    build("string", given={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
    "min_length max_length one_of",
)
_derived(
    "url",
    "a URL with a scheme",
    "A URL, as it was written: text with a scheme, such as `https://example.com/a`.",
    build("string", given={"format": "uri"}),
    "min_length max_length pattern one_of",
)
_derived("probability", "a number from 0 to 1", "A probability, from 0 to 1.", _SHARE, _NUMBER_RULES)
_derived("confidence_score", "a number from 0 to 1", "The confidence of a model, from 0 to 1.", _SHARE, _NUMBER_RULES)
_derived(
    "token_count",
    "an integer from 0 on",
    "A number of tokens, from 0 on.",
    build("integer", given={"min": 0}),
    "min max multiple_of one_of",
)
_derived(
    "embedding",
    "a list of finite numbers",
    "A vector: a list of finite numbers.",
    build("list", [build("float")], given={"min_size": 1}),
    "dimensions min_size max_size",
)
_derived(
    "reasoning_chain",
    'a list of {"step": …, "reasoning": …}',
    'Steps of reasoning: a list of `{"step": number or title, "reasoning": text}`.',
    build(
        "list",
        [
            build(
                "object", [build("union", [build("integer"), build("string")]), build("string")], ["step", "reasoning"]
            )
        ],
    ),
    "max_steps min_size max_size",
)
_derived("model_output", "text", "Text as a model wrote it.", build("string"), _TEXT_RULES)
_derived(
    "prompt_template",
    "a template with {name} placeholders",
    "A prompt with `{name}` placeholders; write `{{` for a brace.",
    build("string"),
    "min_length max_length",
    check=value_checks.is_template,
)
_derived(
    "function_call",
    'a map with "name" and "arguments"',
    'A call a model asks for: `{"name": …, "arguments": {…}}`, and optionally its `id`.',
    build(
        "object",
        [build("string", given={"min_length": 1}), build("map"), build("optional", [build("string")])],
        ["name", "arguments", "id"],
    ),
)
_derived(
    "tool_result",
    'a map with "name" and "content"',
    'The result of a tool: `{"name": …, "content": any JSON}`, and optionally `id` and `is_error`.',
    build(
        "object",
        [
            build("string", given={"min_length": 1}),
            build("any"),
            build("optional", [build("string")]),
            build("optional", [build("boolean")]),
        ],
        ["name", "content", "id", "is_error"],
    ),
)


def _media(kind: str) -> Type:
    url = build("string", given={"pattern": "^(https?://|data:)"})
    data = build("string", given={"pattern": "^[A-Za-z0-9+/]+={0,2}$"})
    media_type = build("string", given={"pattern": f"^{kind}/[A-Za-z0-9.+-]+$"})
    return build(
        "union", [build("object", [url], ["url"]), build("object", [data, media_type], ["data", "media_type"])]
    )


_derived(
    "image",
    'an image: {"url": …} or {"data": base64, "media_type": "image/…"}',
    'An image: `{"url": "https://…"}` or `{"data": base64, "media_type": "image/png"}`.',
    _media("image"),
    check=value_checks.has_plain_address,
)
_derived(
    "audio",
    'audio: {"url": …} or {"data": base64, "media_type": "audio/…"}',
    'Audio: `{"url": "https://…"}` or `{"data": base64, "media_type": "audio/wav"}`.',
    _media("audio"),
    check=value_checks.has_plain_address,
)
_derived(
    "history",
    'a conversation: {"messages": [{…}, …]}',
    'A conversation: `{"messages": [{…}, …]}`, each message a map of earlier inputs and outputs.',
    build("object", [build("list", [build("map")])], ["messages"]),
)
