"""Values as the pages show them: times, durations, amounts, long texts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from dspex.operations.report.dollars import dollars
from dspex.signatures.text_order import unreversed

__all__ = ["FILTERS", "ago", "brief", "milliseconds", "pretty", "printed"]

#: How many characters of a value a page shows before it is folded.
PREVIEW = 110
#: How many characters a page with many long values shows of each.
CUT = 6000
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def printed(value: Any) -> Any:
    """What a template prints: values without the marks that reverse text.

    Markup is printed as it is: what a macro made, and with the filter ``e`` the value of a control, which is sent back.
    """
    if value is None or isinstance(value, Markup):
        return value
    return unreversed(value if isinstance(value, str) else str(value))


def ago(at: datetime | None) -> str:
    """The time since, in its largest unit."""
    if at is None:
        return ""
    seconds = max((datetime.now(UTC) - at).total_seconds(), 0)
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def until(at: datetime | None) -> str:
    """The time to a moment that is to come, in its largest unit."""
    if at is None:
        return ""
    seconds = (at - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        return "now"
    for unit, length in _UNITS:
        if seconds >= length:
            return f"in {seconds / length:.0f} {unit}"
    return f"in {seconds:.0f} s"


def moment(at: datetime | None) -> str:
    """The time to the second, in UTC."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def milliseconds(value: float | None) -> str:
    """A duration with three digits or so."""
    if value is None:
        return ""
    if value < 1000:
        return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
    if value < 120_000:
        return f"{value / 1000:.2f} s" if value < 10_000 else f"{value / 1000:.1f} s"
    minutes = value / 60_000
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def seconds(value: float | None) -> str:
    """A duration given in seconds."""
    return "" if value is None else milliseconds(value * 1000)


def brief(value: Any, most: int = PREVIEW) -> str:
    """The beginning of a value, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    line = " ".join(text[: most * 4].split())
    return line if len(line) <= most and len(text) <= most * 4 else line[: most - 1] + "…"


def pretty(value: Any) -> str:
    """A value as text: text as it is, anything else as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str)


def first_value(values: dict[str, Any]) -> str:
    """The beginning of the first input or output: by which a reader knows one execution from another."""
    return brief(next(iter(values.values()), ""))


def score(value: float | None) -> str:
    """A score with three digits; a dash without one."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference of scores, with its sign."""
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "−")


def cut(value: Any, most: int = CUT) -> Any:
    """A value as it is; the beginning of its text if that is long."""
    text = pretty(value)
    if len(text) <= most:
        return value
    return f"{text[:most]}…\n({len(text):,} characters)"


def short(id: object) -> str:
    """The end of an id, where ids of one moment differ."""
    return f"…{str(id)[-8:]}"


def mebibytes(value: float | None) -> str:
    """An amount of memory."""
    return "" if value is None else f"{value / 2**20:,.0f} MiB"


def with_code(text: str) -> Markup:
    """A message whose parts between backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick of its own
        return escape(text)
    shown = (Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts))
    return Markup("").join(shown)


#: What templates use, by name.
FILTERS = {
    "ago": ago, "until": until, "moment": moment, "milliseconds": milliseconds, "seconds": seconds,
    "brief": brief, "pretty": pretty, "first_value": first_value, "short": short, "dollars": dollars,
    "mebibytes": mebibytes, "with_code": with_code, "score": score, "signed": signed, "cut": cut,
}  # fmt: skip
