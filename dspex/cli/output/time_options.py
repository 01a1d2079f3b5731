"""Command-line arguments that are points in time: ``2026-01-31``, ``2026-01-31T08:00+02:00``, ``15m`` (ago)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = ["TimeParameter", "since_option"]

_AGO = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class TimeParameter(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no argument there
    """A date, a time (UTC unless it has an offset), or a duration before now."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if ago := _AGO.fullmatch(value):
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time; use 2026-01-31, 2026-01-31T08:00 (UTC), or 15m, 2h, 7d (ago)", param, ctx
            )


since_option: Callable[[Any], Any] = click.option(
    "--since",
    type=TimeParameter(),
    metavar="WHEN",
    help="Only executions submitted since: 2026-01-31, 2026-01-31T08:00, 15m, 2h.",
)
