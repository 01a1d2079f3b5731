"""Keys for requests over HTTP: creating, checking and revoking them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial

from uuid_utils.compat import uuid7

from dspex.errors import FieldError, ValidationError
from dspex.settings.web_settings import SCOPES
from dspex.store.database import Database
from dspex.store.operations import api_keys
from dspex.store.operations.api_keys import ApiKey

__all__ = ["KEY_PREFIX", "AccessKeys", "key_hash"]

#: A key begins with it, so that scanners for leaked secrets find keys.
KEY_PREFIX = "dspex_"
_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class AccessKeys:
    """The keys of a deployment. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = ("submit", "read"),
        programs: Sequence[str] | None = None,
        tenant: str | None = None,
        per_minute: int | None = None,
        budget_usd: float | None = None,
        expires_in: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Store a new key. Returns it with its text, which is not stored and cannot be shown again.

        Raises ValidationError with every wrong value; also when a key of this name is in force.
        """
        faults = [
            *_name_faults(name, tenant),
            *_right_faults(scopes, programs, expires_in),
            *_limit_faults(tenant, per_minute, budget_usd),
        ]
        if faults:
            raise ValidationError.of(f"key {name!r}", faults)
        text = KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        stored = self._database.run(
            partial(
                api_keys.create, id=uuid7(), name=name, hash=key_hash(text), tenant=tenant, per_minute=per_minute,
                budget_usd=budget_usd,
                scopes=[scope for scope in SCOPES if scope in scopes], programs=programs,
                seconds=None if expires_in is None else expires_in.total_seconds(),
            ),
            saved="the key was not stored",
        )  # fmt: skip
        if stored is None:
            expected = "a name that no key in force has: `dspex keys revoke` ends the other one"
            raise ValidationError.of(f"key {name!r}", [FieldError("name", expected, repr(name))])
        return stored, text

    def all(self) -> Sequence[ApiKey]:
        """All keys, the newest first, also revoked and expired ones."""
        return self._database.run(api_keys.listing)

    def revoke(self, name: str) -> bool:
        """End a key. Requests with it are refused within some seconds, and streams end. False when there is none."""
        return self._database.run(partial(api_keys.revoke, name=name)) is not None

    def find(self, text: str) -> ApiKey | None:
        """The key with this text, if it is in force."""
        return self._database.run(partial(api_keys.find, hash=key_hash(text)))


def key_hash(text: str) -> bytes:
    """The hash that is stored of a key."""
    return hashlib.sha256(text.encode()).digest()


def _name_faults(name: object, tenant: object) -> list[FieldError]:
    expected = "1 to 64 of the characters A-Z a-z 0-9 _ . -"
    given = {"name": name, **({} if tenant is None else {"tenant": tenant})}
    return [
        FieldError(path, expected, repr(value)[:80])
        for path, value in given.items()
        if not (isinstance(value, str) and _NAME.fullmatch(value))
    ]


def _limit_faults(tenant: str | None, per_minute: int | None, budget_usd: float | None) -> list[FieldError]:
    faults = []
    if per_minute is not None and not 0 < per_minute <= 10_000_000:
        faults.append(FieldError("per_minute", "an integer from 1 to 10000000", repr(per_minute)))
    if budget_usd is not None and not 0 < budget_usd <= 1e12:
        faults.append(FieldError("budget_usd", "US dollars, more than 0", repr(budget_usd)))
    if budget_usd is not None and tenant is None:
        faults.append(FieldError("budget_usd", "a key with a tenant, whose executions it limits"))
    return faults


def _right_faults(
    scopes: Collection[str], programs: Sequence[str] | None, expires_in: timedelta | None
) -> list[FieldError]:
    faults = []
    if not scopes or not set(scopes) <= set(SCOPES):
        faults.append(FieldError("scopes", f"some of {', '.join(SCOPES)}", ", ".join(map(str, scopes))))
    if programs is not None and not programs:
        faults.append(FieldError("programs", "the names of programs, or None for all"))
    if expires_in is not None and not timedelta(0) < expires_in <= timedelta(days=36_500):
        faults.append(FieldError("expires_in", "a time span of more than 0 and at most 100 years", str(expires_in)))
    return faults
