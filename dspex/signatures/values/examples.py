"""Valid example values for a signature, determined by a seed."""

from __future__ import annotations

import ipaddress
import json
import math
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from dspex.errors import FieldError, ValidationError
from dspex.signatures.fields import Field, Type
from dspex.signatures.types.type_registry import SPECS, expand
from dspex.signatures.values.pattern_examples import text_matching
from dspex.signatures.values.validators import build_validator

__all__ = ["find"]

_TRIES = 100
_WORDS = [
    "amber",
    "bridge",
    "cedar",
    "delta",
    "ember",
    "forest",
    "garden",
    "harbor",
    "island",
    "jasmine",
    "kettle",
    "lantern",
    "meadow",
    "north",
    "orchard",
    "paper",
    "quiet",
    "river",
    "stone",
    "timber",
    "umber",
    "valley",
    "willow",
    "yonder",
    "zephyr",
]


def find(seed: int, *sides: Sequence[Field]) -> list[dict[str, Any]]:
    """Valid values for each side of a signature.

    Raises ValidationError if no value was found for a field, as with a pattern and a format that rarely agree, or a
    custom type whose ``validate`` rejects most values of its base: give it ``json_schema={"examples": [...]}``.
    """
    rng = random.Random(seed)  # noqa: S311 - examples, not secrets
    return [{field.name: _value_of(field, rng) for field in side} for side in sides]


def _value_of(field: Field, rng: random.Random) -> Any:
    validator = build_validator((field,))
    for _ in range(_TRIES):
        try:
            return validator.validate_python({field.name: _value(field.type, rng)})[field.name]
        except (ValueError, LookupError):  # pydantic_core's error is a ValueError
            continue
    expected = f'a type for which examples can be found; give {field.type} a json_schema={{"examples": [...]}}'
    raise ValidationError.of("example", [FieldError(field.name, expected)])


def _value(kind: Type, rng: random.Random) -> Any:
    spec = SPECS[kind.name]
    if found := dict(kind.notes).get("examples"):
        return rng.choice(json.loads(found))
    if spec.custom and (spec.json or {}).get("examples"):
        return rng.choice((spec.json or {})["examples"])
    if kind.name in _SPECIAL:
        return _SPECIAL[kind.name](expand(kind), rng)
    if spec.base is not None:
        base = spec.base
        merged = expand(kind)
        return _value(replace(base, constraints=merged.constraints), rng)
    limits = kind.limits
    if "one_of" in limits:
        return rng.choice(limits["one_of"])
    return _VALUES[kind.name](kind, limits, rng)


Limits = Mapping[str, Any]


def _text(_: Type, limits: Limits, rng: random.Random) -> str:
    if "pattern" in limits:
        return text_matching(limits["pattern"], rng)
    if "format" in limits:
        return _FORMATS[limits["format"]](rng)
    low, high = limits.get("min_length", 0), limits.get("max_length", 200)
    text = " ".join(rng.choices(_WORDS, k=rng.randint(2, 6)))
    while len(text) < low:
        text = f"{text} {rng.choice(_WORDS)}"
    cut = text[: max(high, 0)]
    return cut if cut == cut.strip() or len(cut) < 1 else cut[:-1] + "s"


def _integer(_: Type, limits: Limits, rng: random.Random) -> int:
    step = limits.get("multiple_of", 1)
    low = limits.get("min", min(0, limits.get("max", 0) - 100))
    high = limits.get("max", max(100, low + 100 * step))
    return int(rng.randint(-(-low // step), high // step) * step)


def _float(_: Type, limits: Limits, rng: random.Random) -> float:
    step = limits.get("multiple_of") or 10.0 ** -min(3, limits.get("precision", 3))
    low = limits.get("min", min(0.0, limits.get("max", 0.0) - 100))
    high = limits.get("max", max(100.0, low + 100 * step))
    if high - low < step:
        return float(rng.choice([low, high]))
    number = round(rng.randint(math.ceil(low / step), math.floor(high / step)) * step, 12)
    return float(min(max(number, low), high))


def _size(limits: Limits, rng: random.Random, usual: int = 3) -> int:
    low = limits.get("min_size", min(2, limits.get("max_size", 2)))
    return rng.randint(low, max(low, min(limits.get("max_size", usual), low + usual)))


def _list(kind: Type, limits: Limits, rng: random.Random) -> list[Any]:
    size = _size(limits, rng)
    items = [_value(kind.args[0], rng) for _ in range(size)]
    tries = 0
    while limits.get("unique") and tries < _TRIES and len(set(map(repr, items))) < size:
        items = list({repr(item): item for item in [*items, _value(kind.args[0], rng)]}.values())[:size]
        tries += 1
    return items


def _map(_: Type, limits: Limits, rng: random.Random) -> dict[str, Any]:
    keys = [*limits.get("required_keys", ())]
    size = max(len(keys), _size(limits, rng))
    keys += [f"{rng.choice(_WORDS)}_{number}" for number in range(size - len(keys))]
    return {key: rng.choice([rng.randint(0, 9), rng.choice(_WORDS), True, None]) for key in keys}


def _dict(kind: Type, limits: Limits, rng: random.Random) -> dict[str, Any]:
    keys = dict.fromkeys(limits.get("required_keys", ()))
    size = max(len(keys), _size(limits, rng))
    for _ in range(_TRIES):
        if len(keys) >= size:
            break
        keys[_value(kind.args[0], rng)] = None
    return {key: _value(kind.args[1], rng) for key in keys}


def _tagged(kind: Type, _: Limits, rng: random.Random) -> dict[str, Any]:
    tag, arg = rng.choice(list(zip(kind.labels, kind.args, strict=True)))
    return {"tag": tag, "value": _value(arg, rng)}


def _bytes(_: Type, limits: Limits, rng: random.Random) -> bytes:
    low = limits.get("min_length", min(8, limits.get("max_length", 8)))
    return rng.randbytes(low)


def _decimal(_: Type, limits: Limits, rng: random.Random) -> Decimal:
    low = limits.get("min", min(Decimal(0), limits.get("max", Decimal(0)) - 100))
    high = limits.get("max", low + 100)
    places = min(2, limits.get("precision", 2))
    unit = Decimal(1).scaleb(-places)
    return Decimal(rng.randint(math.ceil(low / unit), math.floor(high / unit))) * unit


def _time(rng: random.Random) -> datetime:
    return datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(500_000))


_VALUES: Mapping[str, Callable[[Type, Limits, random.Random], Any]] = {
    "string": _text,
    "integer": _integer,
    "float": _float,
    "boolean": lambda _, __, rng: rng.random() < 0.5,
    "any": lambda _, __, rng: rng.choice([rng.choice(_WORDS), rng.randint(0, 99), True, {"key": "value"}]),
    "map": _map,
    "binary": _bytes,
    "datetime": lambda _, __, rng: _time(rng),
    "date": lambda _, __, rng: _time(rng).date(),
    "time": lambda _, __, rng: _time(rng).timetz(),
    "duration": lambda _, __, rng: timedelta(minutes=rng.randrange(10_000)),
    "decimal": _decimal,
    "uuid": lambda _, __, rng: uuid.UUID(int=rng.getrandbits(128), version=4),
    "ipv4": lambda _, __, rng: ipaddress.IPv4Address(0xC0000200 + rng.randrange(256)),
    "ipv6": lambda _, __, rng: ipaddress.IPv6Address(f"2001:db8::{rng.randrange(1, 0xFFFF):x}"),
    "enum": lambda kind, _, rng: rng.choice(kind.labels),
    "list": _list,
    "dict": _dict,
    "union": lambda kind, _, rng: _value(rng.choice(kind.args), rng),
    "optional": lambda kind, _, rng: _value(kind.args[0], rng) if rng.random() < 0.7 else None,
    "tagged": _tagged,
    "object": lambda kind, _, rng: {k: _value(arg, rng) for k, arg in zip(kind.labels, kind.args, strict=True)},
}


def _chain(kind: Type, rng: random.Random) -> list[Any]:
    steps = _size(kind.limits, rng)
    return [{"step": n, "reasoning": " ".join(rng.choices(_WORDS, k=5))} for n in range(1, steps + 1)]


def _url(kind: Type, rng: random.Random) -> str:
    limits = kind.limits
    if "one_of" in limits:
        return str(rng.choice(limits["one_of"]))
    start = text_matching(limits["pattern"], rng) if "pattern" in limits else "https://"
    return f"{start}example.com/{rng.choice(_WORDS)}"


_SPECIAL: Mapping[str, Callable[[Type, random.Random], Any]] = {
    "reasoning_chain": _chain,
    "url": _url,
    "image": lambda _, rng: {"url": f"https://example.com/{rng.choice(_WORDS)}.png"},
    "audio": lambda _, rng: {"url": f"https://example.com/{rng.choice(_WORDS)}.wav"},
}

_FORMATS: Mapping[str, Callable[[random.Random], str]] = {
    "date": lambda rng: _time(rng).date().isoformat(),
    "date-time": lambda rng: _time(rng).isoformat(),
    "duration": lambda rng: f"P{rng.randint(1, 30)}DT{rng.randint(1, 23)}H",
    "email": lambda rng: f"{rng.choice(_WORDS)}@example.com",
    "hostname": lambda rng: f"{rng.choice(_WORDS)}.example.com",
    "ipv4": lambda rng: str(ipaddress.IPv4Address(0xC0000200 + rng.randrange(256))),
    "ipv6": lambda rng: f"2001:db8::{rng.randrange(1, 0xFFFF):x}",
    "time": lambda rng: f"{_time(rng):%H:%M:%S}Z",
    "uri": lambda rng: f"https://example.com/{rng.choice(_WORDS)}",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}
