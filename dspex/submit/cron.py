"""Cron expressions: the next time that one names, in a time zone whose clock changes.

Five fields: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday); ``*``, lists, ranges, steps,
and names of months and days. As in cron, a day has to fit one of the two fields of days if both are restricted.

When the clock is put forward, a time that it leaves out is due at the moment of the change, once. When it is put back,
a time that comes twice is due the first time; of an expression for every hour, both times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

__all__ = ["Cron", "time_zone"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|[a-z0-9]+)(?:-(?P<last>[a-z0-9]+))?(?:/(?P<step>\d{1,2}))?")
#: The fields with their least and greatest numbers, and the names of numbers.
_FIELDS = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of the month", 1, 31, ()), ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)  # fmt: skip
#: How far ahead a time is searched for: from one 29th of February to the next, over a century without one.
MOST_DAYS = 366 * 9
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. Days are restricted by either field of days if both restrict them."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_hour: bool
    any_day: bool
    any_weekday: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """The expression. Raises ValueError, whose message says what is wrong."""
        parts = text.lower().split()
        if len(parts) != len(_FIELDS):
            raise ValueError("five fields: minute, hour, day of the month, month, day of the week")
        minutes, hours, days, months, weekdays = (
            _numbers(part, *field) for part, field in zip(parts, _FIELDS, strict=True)
        )
        return cls(
            minutes, hours, days, months, frozenset(day % 7 for day in weekdays),
            any_hour=len(hours) == 24, any_day=parts[2].startswith("*"), any_weekday=parts[4].startswith("*"),
        )  # fmt: skip

    def after(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """The first due time after a moment, in UTC; None if there is none, as for the 30th of February."""
        # A day earlier: a due time that the clock leaves out may move over midnight.
        day = moment.astimezone(zone).date() - timedelta(days=1)
        for _ in range(MOST_DAYS):
            if self._fits(day):
                due = [at for at in self._of_day(day, zone) if at > moment]
                if due:
                    return min(due)
            day += timedelta(days=1)
        return None

    def _fits(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return of_month and of_week
        return of_month or of_week

    def _of_day(self, day: date, zone: tzinfo) -> Iterator[datetime]:
        """The due times of a day, in UTC."""
        for hour in sorted(self.hours):
            for minute in sorted(self.minutes):
                yield from self._at(datetime(day.year, day.month, day.day, hour, minute), zone)

    def _at(self, local: datetime, zone: tzinfo) -> Iterator[datetime]:
        """When the clock shows a time: once, twice, or not at all."""
        first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first == second:
            yield first
        elif first < second:  # the clock is put back: the time comes twice
            yield first
            if self.any_hour:
                yield second
        elif not self.any_hour:  # the clock is put forward over it
            yield _change(second, first, zone)


def time_zone(name: str) -> ZoneInfo:
    """The time zone of this name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ValueError("the name of a time zone, such as Europe/Berlin") from None


def _change(begin: datetime, end: datetime, zone: tzinfo) -> datetime:
    """The moment between two at which the zone's clock is put forward."""
    before = begin.astimezone(zone).utcoffset()
    moment = begin
    while moment < end and moment.astimezone(zone).utcoffset() == before:
        moment += _MINUTE
    return moment


def _numbers(text: str, name: str, least: int, most: int, names: tuple[str, ...]) -> frozenset[int]:
    """The numbers that a field stands for. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"the field {name} cannot be {text!r}")
        step = int(match["step"] or 1)
        if match["first"] == "*" and match["last"] is None:
            first, last = least, most
        else:
            first = _number(match["first"], name, least, most, names)
            last = first if match["last"] is None else _number(match["last"], name, least, most, names)
            last = most if match["last"] is None and match["step"] else last
        if step < 1 or first > last:
            raise ValueError(f"the field {name} cannot be {text!r}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, name: str, least: int, most: int, names: tuple[str, ...]) -> int:
    if text[:3] in names:
        return names.index(text[:3]) + least
    if text.isdigit() and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"the field {name} has numbers from {least} to {most}, not {text!r}")
