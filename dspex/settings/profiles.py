"""What differs between development, test and production: all of it, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PROFILES", "Profile", "ProfileName"]

ProfileName = Literal["development", "test", "production"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. ``docs/reference/settings.md`` shows the table, with these lines:

    ``embedded_stack``  without URLs, the embedded stack of DSPEX_HOME is used
    ``durable``         what the embedded stack holds survives a loss of power
    ``plain_text``      Postgres and Redis may be reached over a network without TLS
    ``failpoints``      DSPEX_FAILPOINTS may be set
    ``open_flower``     Flower may be without a password, on this machine only
    """

    embedded_stack: bool
    durable: bool
    plain_text: bool
    failpoints: bool
    open_flower: bool


PROFILES: dict[ProfileName, Profile] = {
    "development": Profile(embedded_stack=True, durable=True, plain_text=True, failpoints=True, open_flower=True),
    "test": Profile(embedded_stack=True, durable=False, plain_text=True, failpoints=True, open_flower=True),
    "production": Profile(embedded_stack=False, durable=True, plain_text=False, failpoints=False, open_flower=False),
}
