"""Generated types, signatures and values."""

from __future__ import annotations

import ipaddress
import json
import keyword
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from dspex.signatures.fields import LEFT_OUT, Type, literal
from dspex.signatures.types.type_registry import TypeFaultError, build, constrain, expand
from dspex.signatures.values.text_forms import to_text
from dspex.signatures.values.validators import key_default

__all__ = ["json_values", "signature_texts", "texts", "types", "values"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)

json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def _between(low: str, high: str, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.tuples(numbers, numbers).map(sorted)
    both = pairs.map(lambda pair: {low: pair[0], high: pair[1]})
    return st.just({}) | numbers.map(lambda n: {low: n}) | numbers.map(lambda n: {high: n}) | both


_sizes = st.integers(0, 4)
_PLAIN_NAMES = (
    "boolean", "any", "map", "atom", "probability", "confidence_score", "token_count", "embedding", "reasoning_chain",
    "model_output", "function_call", "tool_result", "image", "audio", "history",
)  # fmt: skip
_scalars: st.SearchStrategy[Type] = st.one_of(
    _between("min_length", "max_length", st.integers(0, 8)).map(lambda given: build("string", given=given)),
    _between("min", "max", st.integers(-100, 100)).map(lambda given: build("integer", given=given)),
    _between("min", "max", st.integers(-100, 100)).map(lambda given: build("float", given=given)),
    st.lists(texts, min_size=1, max_size=3, unique=True).map(lambda labels: build("enum", labels=labels)),
    st.lists(texts, min_size=1, max_size=3, unique=True).map(lambda them: build("string", given={"one_of": them})),
    st.sampled_from(_PLAIN_NAMES).map(build),
)
_wires = st.sampled_from(["binary", "datetime", "date", "time", "duration", "decimal", "uuid", "ipv4", "ipv6"]).map(
    build
)
_notes = st.fixed_dictionaries(
    {}, optional={"title": texts, "description": texts, "examples": st.lists(json_values, max_size=2)}
)


@st.composite
def _with_defaults(draw: st.DrawFn, inner: st.SearchStrategy[Type]) -> Type:
    """An ``:object`` with keys of any text, some of which may be left out."""
    members = draw(st.dictionaries(names | texts, inner, min_size=1, max_size=3))
    defaults: list[str | None] = []
    for kind in members.values():
        match draw(st.sampled_from(["required", "left out", "default"])):
            case "default" if kind.name != "optional":
                defaults.append(_default(kind, draw(values(kind))))
            case "left out":
                defaults.append(LEFT_OUT)
            case _:
                defaults.append(None)
    return build("object", [*members.values()], [*members], defaults=defaults)


def _default(kind: Type, value: Any) -> str:
    try:
        return key_default(kind, json.loads(json.dumps(value, default=to_text)))
    except TypeFaultError:  # some types have checks that the values are not generated for
        reject()


def _composed(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    members = st.lists(st.tuples(names, inner), min_size=1, max_size=3, unique_by=lambda pair: pair[0])
    sized = _between("min_size", "max_size", _sizes)
    return st.one_of(
        _with_defaults(inner),
        st.tuples(inner, _notes).map(lambda pair: constrain(pair[0], pair[1])),
        st.tuples(inner, sized).map(lambda pair: build("list", [pair[0]], given=pair[1])),
        st.tuples(inner, sized).map(lambda pair: build("dict", [build("string"), pair[0]], given=pair[1])),
        inner.map(lambda kind: build("optional", [kind])),
        members.map(lambda pairs: build("object", [kind for _, kind in pairs], [name for name, _ in pairs])),
        members.map(lambda pairs: build("tagged", [kind for _, kind in pairs], [name for name, _ in pairs])),
    )


def _with_unions(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    return _composed(inner) | st.lists(inner, min_size=2, max_size=3).map(lambda kinds: build("union", kinds))


plain_types: st.SearchStrategy[Type] = st.recursive(_scalars, _with_unions, max_leaves=5)
"""Types whose values JSON holds as they are."""

types: st.SearchStrategy[Type] = plain_types | st.recursive(_scalars | _wires, _composed, max_leaves=5)


@st.composite
def signature_texts(draw: st.DrawFn) -> str:
    """The text of a signature, with descriptions, marks and white space here and there."""
    space = st.sampled_from([" ", "  ", "\n", "\t", " # note\n"])
    every = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    cut = draw(st.integers(0, len(every) - 1))

    def field(name: str) -> str:
        kind = draw(types)
        secret = kind.name != "optional" and draw(st.booleans())
        about = f"{draw(space)}{literal(draw(texts))}" if draw(st.booleans()) else ""
        return f"{kind.text(secret=secret)}{draw(space)}{name}{about}"

    inputs, outputs = (f",{draw(space)}".join(map(field, side)) for side in (every[:cut], every[cut:]))
    return f"signature {draw(names)} {literal(draw(texts))}:{draw(space)}{inputs}{draw(space)}->{draw(space)}{outputs}"


def values(kind: Type) -> st.SearchStrategy[Any]:
    """Values of a type, in Python form."""
    primitive = expand(kind)
    limits = primitive.limits
    if "one_of" in limits:
        return st.sampled_from(limits["one_of"])
    low, high = limits.get("min_size", 0), limits.get("max_size", max(3, limits.get("min_size", 0)))
    match primitive.name:
        case "string" if "pattern" in limits:
            return st.from_regex(limits["pattern"].replace("$", r"\Z"), alphabet=st.characters(codec="ascii"))
        case "string":
            return st.text(
                st.characters(exclude_categories=["Cs"]),
                min_size=limits.get("min_length", 0),
                max_size=limits.get("max_length", limits.get("min_length", 0) + 5),
            )
        case "integer":
            return st.integers(limits.get("min", -(2**63)), limits.get("max", 2**63 - 1))
        case "float":
            return st.floats(limits.get("min"), limits.get("max"), allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "any":
            return json_values
        case "map":
            return st.dictionaries(texts, json_values, min_size=low, max_size=high)
        case "binary":
            return st.binary(max_size=20)
        case "datetime":
            zones: Any = st.none() | st.integers(-840, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))
            return st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)
        case "date":
            return st.dates()
        case "time":
            return st.times()
        case "duration":
            return st.timedeltas()
        case "decimal":
            return st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal(-(10**30)), max_value=10**30)
        case "uuid":
            return st.uuids()
        case "ipv4" | "ipv6":
            return st.integers(0, 2**32 - 1).map(
                ipaddress.IPv4Address if primitive.name == "ipv4" else ipaddress.IPv6Address
            )
        case "enum":
            return st.sampled_from(primitive.labels)
        case "list":
            return st.lists(values(primitive.args[0]), min_size=low, max_size=high)
        case "dict":
            return st.dictionaries(values(primitive.args[0]), values(primitive.args[1]), min_size=low, max_size=high)
        case "optional":
            return st.none() | values(primitive.args[0])
        case "union":
            return st.one_of([values(arg) for arg in primitive.args])
        case "tagged":
            pairs = zip(primitive.labels, primitive.args, strict=True)
            return st.one_of([st.fixed_dictionaries({"tag": st.just(tag), "value": values(arg)}) for tag, arg in pairs])
        case _:
            members = {key: values(arg) for key, arg, _ in primitive.object_keys()}
            absent = {key for key, _, default in primitive.object_keys() if default == LEFT_OUT}
            return st.fixed_dictionaries(
                {key: value for key, value in members.items() if key not in absent},
                optional={key: value for key, value in members.items() if key in absent},
            )
