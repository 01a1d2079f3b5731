"""Everything that differs between development, test and production, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PROFILES", "Profile", "ProfileName"]

ProfileName = Literal["development", "test", "production"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. ``docs/reference/settings.md`` shows the table, with these lines:

    ``embedded_stack``  without URLs, the embedded stack of DSPEX_HOME is used
    ``durable``         the data of the embedded stack survives a power loss
    ``plain_text``      connections to Postgres and Redis on other hosts may be unencrypted
    ``failpoints``      DSPEX_FAILPOINTS may be set
    ``open_flower``     Flower may run without a password, on this machine only
    ``open_gateway``    `dspex serve` needs no key, on this machine only
    """

    embedded_stack: bool
    durable: bool
    plain_text: bool
    failpoints: bool
    open_flower: bool
    open_gateway: bool


PROFILES: dict[ProfileName, Profile] = {
    "development": Profile(
        embedded_stack=True, durable=True, plain_text=True, failpoints=True, open_flower=True, open_gateway=True
    ),
    "test": Profile(
        embedded_stack=True, durable=False, plain_text=True, failpoints=True, open_flower=True, open_gateway=True
    ),
    "production": Profile(
        embedded_stack=False, durable=True, plain_text=False, failpoints=False, open_flower=False, open_gateway=False
    ),
}
