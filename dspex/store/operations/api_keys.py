"""Keys for requests over HTTP. Only their hashes are stored: a key has 256 random bits, so a hash reveals nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

__all__ = ["ApiKey", "create", "find", "get", "listing", "revoke"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key: what its bearer may do.

    ``scopes``      of ``submit read operate admin``
    ``programs``    the programs that it may use; None: all
    ``tenant``      the tenant whose executions it submits and sees; None: it sees the executions of all
    ``per_minute``  how many submits it may make in a minute, together with other keys of its tenant; None: no limit
    ``budget_usd``  what executions of its tenant may cost in a calendar month before it submits no more; None: no limit
    """

    id: UUID
    name: str
    scopes: Sequence[str]
    programs: Sequence[str] | None
    tenant: str | None
    per_minute: int | None
    budget_usd: float | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


_COLUMNS = "id, name, scopes, programs, tenant, per_minute, budget_usd, created_at, expires_at, revoked_at"
_IN_FORCE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
_CREATE = text(f"""
INSERT INTO dspex.api_keys (id, name, hash, scopes, programs, tenant, per_minute, budget_usd, expires_at)
VALUES (:id, :name, :hash, CAST(:scopes AS text[]), CAST(:programs AS text[]), :tenant, :per_minute, :budget_usd,
    clock_timestamp() + make_interval(secs => CAST(:seconds AS float8)))
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING {_COLUMNS}
""")  # noqa: S608
_FIND = text(f"SELECT {_COLUMNS}, hash FROM dspex.api_keys WHERE hash = :hash AND {_IN_FORCE}")  # noqa: S608
_GET = text(f"SELECT {_COLUMNS}, hash FROM dspex.api_keys WHERE id = :id AND {_IN_FORCE}")  # noqa: S608
_LISTING = text(f"SELECT {_COLUMNS} FROM dspex.api_keys ORDER BY created_at DESC")  # noqa: S608
_REVOKE = text(f"""
UPDATE dspex.api_keys SET revoked_at = clock_timestamp() WHERE name = :name AND revoked_at IS NULL
RETURNING {_COLUMNS}
""")  # noqa: S608


def create(
    connection: Connection,
    id: UUID,
    name: str,
    hash: bytes,
    *,
    scopes: Sequence[str],
    programs: Sequence[str] | None,
    tenant: str | None,
    per_minute: int | None,
    budget_usd: float | None,
    seconds: float | None,
) -> ApiKey | None:
    """Store a key that expires after so many ``seconds``. None when a key of this name is in force."""
    given = {
        "id": id, "name": name, "hash": hash, "scopes": list(scopes), "programs": programs and list(programs),
        "tenant": tenant, "per_minute": per_minute, "budget_usd": budget_usd, "seconds": seconds,
    }  # fmt: skip
    return _key(connection.execute(_CREATE, given).one_or_none())


def find(connection: Connection, hash: bytes) -> ApiKey | None:
    """The key with this hash, if it is in force: neither revoked nor expired."""
    return _key(connection.execute(_FIND, {"hash": hash}).one_or_none())


def get(connection: Connection, id: UUID) -> tuple[ApiKey, bytes] | None:
    """The key with this id and its hash, if it is in force."""
    row = connection.execute(_GET, {"id": id}).one_or_none()
    key = _key(row)
    return None if key is None or row is None else (key, bytes(row.hash))


def listing(connection: Connection) -> list[ApiKey]:
    """All keys, the newest first, also revoked and expired ones."""
    return [key for row in connection.execute(_LISTING) if (key := _key(row))]


def revoke(connection: Connection, name: str) -> ApiKey | None:
    """Revoke the key of this name. None when there is none in force."""
    return _key(connection.execute(_REVOKE, {"name": name}).one_or_none())


def _key(row: Row[Any] | None) -> ApiKey | None:
    if row is None:
        return None
    values: tuple[Any, ...] = tuple(row)
    return ApiKey(*values[:10])
