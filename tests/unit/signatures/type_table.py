"""Every type with values that are right and values that are wrong."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

NAN, INF = float("nan"), float("inf")
CHAIN = [{"step": 1, "reasoning": "so"}, {"step": "then", "reasoning": "it"}]
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = 1
for _ in range(101):
    DEEP = [DEEP]

TABLE: dict[str, tuple[list[Any], list[Any]]] = {
    ":string": (["", "a\0b", "🎈", "'\"&<>", "x" * 10_000_000], [1, None, b"x", "\ud800", ["a"]]),
    ":string(min_length=1, max_length=3)": (["é", "abc"], ["", "abcd"]),
    ':string(pattern="^[a-z]+$")': (["abc"], ["aBc", "abc\n"]),
    ':string(one_of=["a", "b"])': (["a"], ["c"]),
    ':string(format="email")': (["a@example.com"], ["a@b", "example.com", f"a@{'a.' * 160}com"]),
    ':string(format="date")': (["2025-02-28"], ["2025-02-30", "28.2.2025"]),
    ':string(format="date-time")': (["2025-02-28T10:00:00Z"], ["2025-02-28"]),
    ':string(format="time")': (["10:00:00Z", "10:00:00+01:00"], ["25:00:00", "10"]),
    ':string(format="duration")': (["P3DT4H", "P2W"], ["P", "3 days"]),
    ':string(format="uri")': (["https://example.com/a?b#c", "urn:isbn:1"], ["example", "http://a b"]),
    ':string(format="uuid")': (["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    ':string(format="ipv4")': (["192.0.2.1"], ["192.0.2.256"]),
    ':string(format="ipv6")': (["2001:db8::1"], ["2001:db8"]),
    ':string(format="hostname")': (["a.example.com"], ["-a.com", "a b"]),
    ":integer": ([0, -1, 2**63 - 1, -(2**63)], [2**63, -(2**63) - 1, "5", 5.0, True, None, 10**5000]),
    ":integer(min=1, max=10, multiple_of=3)": ([3, 9], [0, 12, 4]),
    ":integer(one_of=[1, 2])": ([1], [3, True, 1.0]),
    ":float": ([1.5, 5, -0.0, 1e308], [NAN, INF, -INF, "1.5", True, None, 10**400]),
    ":float(min=0, max=1, precision=2)": ([0, 0.25, 1.0], [-0.01, 1.01, 0.123]),
    ":float(multiple_of=0.1)": ([0.3, 0.7], [0.35]),
    ":float(one_of=[0.5, 1])": ([0.5, 1], [0.6]),
    ":boolean": ([True, False], [0, 1, "true", None]),
    ":atom": (["ok", "_a1", "CamelCase"], ["", "1a", "a-b", "é", "a b"]),
    ":atom(max_length=2)": (["ok"], ["nok"]),
    ":any": (
        [None, 1, "a", [1, {"a": None}], 1.5],
        [NAN, (1,), {1, 2}, {1: 2}, b"x", 2**64, "\ud800", CYCLE, DEEP, object()],
    ),
    ":map": (
        [{}, {"a": {"b": [1, None]}}],
        [[], None, "{}", {1: 2}, {"a": NAN}, {"\ud800": 1}, {"a": CYCLE}, {"a": DEEP}],
    ),
    ':map(min_size=1, max_size=2, required_keys=["a"])': (
        [{"a": 1}, {"a": 1, "b": 2}],
        [{}, {"b": 1}, {"a": 1, "b": 2, "c": 3}],
    ),
    ":binary": ([b"", b"\0\xff", "aGk="], ["a", "aGk", "a G k =", 1, [1]]),
    ":binary(min_length=1, max_length=2)": ([b"ab"], [b"", b"abc"]),
    ":datetime": (
        [
            NOON,
            datetime(2025, 1, 31),
            NOON.astimezone(timezone(timedelta(hours=5))),
            "2025-01-31T12:00:00Z",
            "2025-01-31T12:00",
            datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
            "1880-01-01T00:00:00+00:53:28",
        ],
        ["2025-01-31", "noon", 1738324800, "2025-13-31T12:00:00Z", None],
    ),
    ":date": (
        [date(2025, 1, 31), "2025-01-31"],
        [NOON, "2025-01-31T00:00:00", "2025-02-30", "31.1.2025", 20250131, None],
    ),
    ":time": (
        [time(14, 30), time(14, 30, 0, 1, UTC), "14:30", "14:30:00.5Z", "14:30:00+05:00", "14:30:00+00:53:28"],
        [time(14, 30, tzinfo=ZoneInfo("Europe/Berlin")), "2 pm", "25:00", "14", 14, None, NOON],
    ),
    ":duration": (
        [
            timedelta(0),
            timedelta(days=-1, microseconds=1),
            timedelta.max,
            timedelta.min,
            "P1DT2H30M0.5S",
            "-PT90M",
            "P2W",
        ],
        ["P", "PT", "P1M", "P1Y", "1 hour", "01:30:00", 90, "P9999999999D", None],
    ),
    ":decimal": (
        [Decimal("1.10"), 5, "0.1", "-0", "1E+20", Decimal("1E-400")],
        [1.5, "1,5", "NaN", Decimal("Infinity"), ".5", True, None, "1" * 401, Decimal("1E+10000")],
    ),
    ":decimal(min=0.01, max=99.99, precision=2, max_digits=4)": (
        ["0.01", "10.500", Decimal("99.99"), 7],
        ["0", "100", "0.001", "-1"],
    ),
    ":decimal(max_digits=2)": (["9.90", "0.12", 99, "1E+1"], ["1.23", "0.012", 100, "1E+2"]),
    ":uuid": (
        [UUID(int=1), "123E4567-e89b-12d3-a456-426614174000"],
        ["123e4567e89b12d3a456426614174000", "{123e4567-e89b-12d3-a456-426614174000}", 1, b"x" * 16, None],
    ),
    ":ipv4": ([IPv4Address("192.0.2.1"), "192.0.2.1"], ["192.0.2.256", 1, IPv6Address("::1"), None]),
    ":ipv6": ([IPv6Address("::1"), "2001:DB8::1"], ["2001:db8", 1, IPv4Address("192.0.2.1"), None]),
    ":url": (["https://Example.com", "urn:isbn:1", "postgres://a:b@c/d"], ["example.com", "http://a b", "", None]),
    ':url(pattern="^(http|https)://", max_length=30)': (
        ["https://example.com"],
        ["ftp://example.com", f"http://{'a' * 30}"],
    ),
    ':enum("yes", "no")': (["yes"], ["Yes", "", None, 1]),
    ":embedding": ([[0.1, 1], [1]], [[], [NAN], ["1"], (0.1,), 1.0]),
    ":embedding(dimensions=2)": ([[0.1, 0.2]], [[0.1], [0.1, 0.2, 0.3]]),
    ":probability": ([0, 0.5, 1], [1.01, -0.1, NAN, "0.5", "50%"]),
    ":confidence_score": ([0, 0.5, 1], [85, "0.5"]),
    ":confidence_score(min=0.5)": ([0.5], [0.4]),
    ":token_count": ([0, 10], [-1, 1.5]),
    ":reasoning_chain": (
        [CHAIN, []],
        [[{"step": 1}], [{"step": 1, "reasoning": "a", "x": 1}], ["a"], "a", {"step": 1}],
    ),
    ":reasoning_chain(max_steps=2, min_size=1)": ([CHAIN], [[], [*CHAIN, *CHAIN]]),
    ":model_output": (["text"], [1]),
    ":prompt_template": (["Say {what} to {who:>10}", "{{literal}}"], ["{", "{0}", "{a.b}", "{a[0]}", "{}", 1]),
    ":function_call": (
        [{"name": "f", "arguments": {"a": 1}, "id": None}, {"name": "f", "arguments": {}, "id": "1"}],
        [
            {"name": "", "arguments": {}},
            {"name": "f"},
            {"name": "f", "arguments": "{}"},
            {"name": "f", "arguments": {}, "x": 1},
        ],
    ),
    ":tool_result": (
        [{"name": "f", "content": [1], "id": None, "is_error": True}],
        [{"name": "f"}, {"name": "f", "content": NAN}, {"name": "f", "content": 1, "is_error": "no"}],
    ),
    ":image": (
        [
            {"url": "https://example.com/a.png"},
            {"url": "data:image/png;base64,aGk="},
            {"data": "aGk=", "media_type": "image/png"},
        ],
        [
            "https://example.com/a.png",
            {"url": "file:///etc/passwd"},
            {"url": "a.png"},
            {"data": "aGk="},
            {"data": "aGk=", "media_type": "text/html"},
        ],
    ),
    ":audio": ([{"data": "aGk=", "media_type": "audio/wav"}], [{"data": "aGk=", "media_type": "image/png"}, {}]),
    ":history": ([{"messages": [{"question": "a", "answer": 1}]}, {"messages": []}], [[], {"messages": ["a"]}, {}]),
    ":list(:integer)": ([[], [1, 2]], [[1, "2"], (1,), None, {"a": 1}]),
    ":list(:integer, min_size=1, max_size=2, unique=true)": ([[1], [1, 2]], [[], [1, 1], [1, 2, 3]]),
    ":list(:any, unique=true)": ([[1, True, "1", [1], {"a": 1}]], [[1, 1.0], [{"a": [1]}, {"a": [1]}]]),
    ":dict(:string, :integer)": ([{}, {"a": 1}], [{"a": "1"}, {1: 1}, []]),
    ":dict(:string(max_length=1), :integer, max_size=1)": ([{"a": 1}], [{"ab": 1}, {"a": 1, "b": 2}]),
    ':dict(:enum("a", "b"), :boolean, required_keys=["a"])': ([{"a": True}], [{"c": True}, {"b": True}]),
    ":union(:integer, :string)": ([1, "1"], [1.5, None, True]),
    ":union(:integer, :float, :list(:string))": ([1, 1.5, ["a"]], ["1", [1]]),
    ":union(:binary, :integer)": ([b"x", 1], [1.5]),
    ":optional(:integer)": ([None, 1], ["1"]),
    ':tagged("card", :string(min_length=4), "cash", :datetime)': (
        [{"tag": "card", "value": "1234"}, {"tag": "cash", "value": NOON}],
        [
            {"tag": "card", "value": "1"},
            {"tag": "coin", "value": 1},
            {"tag": "card"},
            {"value": 1},
            {"tag": "card", "value": "1234", "x": 1},
            "card",
        ],
    ),
    ":object(name=:string, age=:optional(:integer(min=0)), at=:optional(:datetime))": (
        [{"name": "a", "age": 1, "at": None}, {"name": "a", "age": None, "at": NOON}],
        [{"name": "a", "age": -1}, {"age": 1}, {"name": "a", "x": 1}, {"name": 1}],
    ),
    ':object("first-name"=:string, year?=:integer, tags=:list(:string) = ["a"], age=:optional(:integer) = 5)': (
        [
            {"first-name": "a", "year": 1, "tags": [], "age": None},
            {"first-name": "a", "tags": [], "age": 1},
        ],
        [{"first-name": "a", "year": None}, {"first-name": "a", "tags": None}, {"first_name": "a"}],
    ),
    ':string(max_length=3, title="Code", description="of a country", examples=["DE"])': (["DE", "x"], ["Code"]),
}

ALL_TYPES = list(TABLE)
