"""Cron expressions, on clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dspex.submit.cron import Cron, time_zone

BERLIN = time_zone("Europe/Berlin")


def times(cron: str, begin: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """The next due times after a moment in UTC, each as UTC."""
    parsed, moment = Cron.parse(cron), datetime.fromisoformat(begin).replace(tzinfo=UTC)
    found = []
    for _ in range(count):
        due = parsed.after(moment, time_zone(zone))
        assert due is not None
        found.append(f"{due:%m-%dT%H:%M}")
        moment = due
    return found


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        ("*/20 * * * *", "2026-01-01T00:05", ["01-01T00:20", "01-01T00:40", "01-01T01:00"]),
        ("0 7 * * 1-5", "2026-01-02T07:00", ["01-05T06:00", "01-06T06:00"]),  # after Friday comes Monday
        ("0 0 1,15 * *", "2026-01-01T12:00", ["01-14T23:00", "01-31T23:00"]),
        ("0 0 13 * fri", "2026-01-31T12:00", ["02-05T23:00", "02-12T23:00"]),  # either field of days
        ("0 12 29 feb *", "2026-03-01T00:00", ["02-29T11:00"]),
        ("30 6-10/2 * * sun", "2026-01-01T00:00", ["01-04T05:30", "01-04T07:30", "01-04T09:30", "01-11T05:30"]),
        ("5 4 * * 7", "2026-01-01T00:00", ["01-04T03:05"]),
    ],
)
def test_the_next_times(cron: str, begin: str, expected: list[str]) -> None:
    assert times(cron, begin, len(expected)) == expected


def test_a_time_that_the_clock_leaves_out_is_due_at_the_change() -> None:
    # On 29 March 2026 the clock of Berlin goes from 2:00 to 3:00, at 1:00 UTC.
    assert times("30 2 * * *", "2026-03-28T12:00", 2) == ["03-29T01:00", "03-30T00:30"]
    assert times("*/30 * * * *", "2026-03-29T00:00", 4) == ["03-29T00:30", "03-29T01:00", "03-29T01:30", "03-29T02:00"]


def test_a_time_that_comes_twice_is_due_once_and_every_hour_twice() -> None:
    # On 25 October 2026 the clock goes from 3:00 back to 2:00, at 1:00 UTC.
    assert times("30 2 * * *", "2026-10-24T12:00", 2) == ["10-25T00:30", "10-26T01:30"]
    assert times("30 * * * *", "2026-10-24T23:45", 3) == ["10-25T00:30", "10-25T01:30", "10-25T02:30"]


def test_a_day_that_never_comes() -> None:
    assert Cron.parse("0 0 30 2 *").after(datetime(2026, 1, 1, tzinfo=UTC), BERLIN) is None


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "a * * * *",
             "*/0 * * * *",              "5-1 * * * *", "1,,2 * * * *", "* * * * * *"],
)  # fmt: skip
def test_what_is_no_expression_says_why(cron: str) -> None:
    with pytest.raises(ValueError, match="field"):
        Cron.parse(cron)


def test_a_time_zone_that_does_not_exist() -> None:
    for name in ("Europe/Berlint", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="time zone"):
            time_zone(name)
