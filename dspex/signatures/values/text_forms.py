"""Values whose form in JSON is text: each type accepts its Python value, or the text, and refuses any other form.

``to_text`` is the inverse of the readers: what it writes, they read as the same value.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from dspex.signatures.values.value_checks import DATE_TEXT, UUID_TEXT, type_fault

__all__ = [
    "read_bytes",
    "read_date",
    "read_datetime",
    "read_decimal",
    "read_duration",
    "read_ipv4",
    "read_ipv6",
    "read_time",
    "read_uuid",
    "to_text",
]

#: A time of day. Offsets may have seconds: places had local offsets with seconds before there were time zones.
_CLOCK = r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?([Zz]|[+-]\d\d:\d\d(:\d\d(\.\d{6})?)?)?"
_TIME = re.compile(_CLOCK, re.ASCII)
_DATETIME = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt]{_CLOCK}", re.ASCII)
_DURATION = re.compile(
    r"(?P<sign>-?)P(?!$)((?P<weeks>\d{1,9})W)?((?P<days>\d{1,9})D)?"
    r"(T(?=\d)((?P<hours>\d{1,12})H)?((?P<minutes>\d{1,12})M)?((?P<seconds>\d{1,15})(\.(?P<part>\d{1,6}))?S)?)?",
    re.ASCII,
)
_DECIMAL = re.compile(r"-?\d++(\.\d++)?([eE][+-]?\d{1,4})?", re.ASCII)
_Address = TypeVar("_Address", ipaddress.IPv4Address, ipaddress.IPv6Address)
_LONGEST_DECIMAL = 400
_LONGEST_ADDRESS = 100


def read_bytes(value: Any) -> bytes:
    """Bytes, or their base64 text."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.isascii():
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            pass
    raise type_fault("bytes, or their base64 text")


def read_datetime(value: Any) -> datetime:
    """A datetime, or its ISO 8601 text with date and time; a value without a time zone is kept without."""
    if isinstance(value, str) and _DATETIME.fullmatch(value):
        try:
            value = datetime.fromisoformat(value.upper())
        except ValueError as error:
            raise type_fault(f"an ISO 8601 date and time ({error})") from None
    if not isinstance(value, datetime):
        raise type_fault('a datetime, or ISO 8601 text such as "2025-01-31T12:00:00Z"')
    return datetime.fromisoformat(value.isoformat()) if value.tzinfo or value.fold else value


def read_date(value: Any) -> date:
    """A date, which a datetime is not, or its ISO 8601 text."""
    if isinstance(value, str) and DATE_TEXT.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise type_fault(f"an ISO 8601 date ({error})") from None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise type_fault('a date, or ISO 8601 text such as "2025-01-31"')
    return value


def read_time(value: Any) -> time:
    """A time of day, or its ISO 8601 text; a value without a time zone is kept without."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            value = time.fromisoformat(value.upper())
        except ValueError as error:
            raise type_fault(f"an ISO 8601 time ({error})") from None
    if not isinstance(value, time):
        raise type_fault('a time, or ISO 8601 text such as "14:30:00"')
    if value.tzinfo is not None and value.utcoffset() is None:
        raise type_fault("a time without a zone, or with an offset: without a date the zone has none")
    return time.fromisoformat(value.isoformat()) if value.tzinfo or value.fold else value


def read_duration(value: Any) -> timedelta:
    """A timedelta, or an ISO 8601 duration of weeks, days, hours, minutes and seconds."""
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise type_fault('a timedelta, or an ISO 8601 duration without years and months, such as "P1DT2H30M"')
    parts = {name: int(found[name] or 0) for name in ("weeks", "days", "hours", "minutes", "seconds")}
    try:
        length = timedelta(**parts, microseconds=int((found["part"] or "").ljust(6, "0")))
    except OverflowError:
        raise type_fault("a duration of less than 1,000,000,000 days") from None
    return -length if found["sign"] else length


def read_uuid(value: Any) -> UUID:
    """A UUID, or its text."""
    if isinstance(value, str) and UUID_TEXT.fullmatch(value):
        return UUID(value)
    if not isinstance(value, UUID):
        raise type_fault('a UUID, or its text such as "123e4567-e89b-12d3-a456-426614174000"')
    return value


def read_decimal(value: Any) -> Decimal:
    """A finite Decimal, an integer, or a number written as text, of which every digit is kept."""
    if isinstance(value, str) and len(value) <= _LONGEST_DECIMAL and _DECIMAL.fullmatch(value):
        return Decimal(value)
    if type(value) is int and value.bit_length() <= 1024:
        return Decimal(value)
    if not isinstance(value, Decimal) or not _DECIMAL.fullmatch(text := str(value)) or len(text) > _LONGEST_DECIMAL:
        raise type_fault('a Decimal, an integer, or a number as text such as "19.90"')
    return value


def read_ipv4(value: Any) -> ipaddress.IPv4Address:
    """An IPv4 address, or its text."""
    return _address(value, ipaddress.IPv4Address, "192.0.2.1")


def read_ipv6(value: Any) -> ipaddress.IPv6Address:
    """An IPv6 address, or its text."""
    return _address(value, ipaddress.IPv6Address, "2001:db8::1")


def _address(value: Any, cls: type[_Address], example: str) -> _Address:
    if isinstance(value, cls):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST_ADDRESS:
        try:
            return cls(value)
        except ValueError:
            pass
    raise type_fault(f'an {cls.__name__}, or its text such as "{example}"')


def to_text(value: Any) -> str:
    """The text of a value. Raises TypeError for a value of another type."""
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return _duration_text(value)
        case Decimal() | UUID() | ipaddress.IPv4Address() | ipaddress.IPv6Address():
            return str(value)
    raise TypeError(f"{type(value).__name__} is not a type of the signature language")


def _duration_text(value: timedelta) -> str:
    sign, length = ("-", -value) if value < timedelta(0) else ("", value)
    minutes, seconds = divmod(length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    part = f".{length.microseconds:06d}".rstrip("0") if length.microseconds else ""
    days = f"{length.days}D" if length.days else ""
    clock = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes) + f"{seconds}{part}S" * bool(seconds or part)
    return f"{sign}P{days}{'T' * bool(clock)}{clock}" if days or clock else "PT0S"
