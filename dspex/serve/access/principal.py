"""Who sends a request, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from dspex.serve.api.problem_details import HttpRefusal
from dspex.settings.web_settings import SCOPES
from dspex.store.operations.api_keys import ApiKey
from dspex.wait.driver import Row

__all__ = ["LOCAL", "Principal"]


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a key, a user that a proxy names, or every client of a gateway that needs no key.

    ``programs`` is None when it may use all of them, ``tenant`` None when it sees the executions of every tenant.
    ``secret`` keys the tokens of its sessions and forms.
    """

    name: str
    scopes: frozenset[str]
    tenant: str | None = None
    programs: frozenset[str] | None = None
    per_minute: int | None = None
    budget_usd: float | None = None
    key_id: UUID | None = None
    secret: bytes = field(default=b"", repr=False)

    @classmethod
    def of_key(cls, key: ApiKey, secret: bytes) -> Principal:
        """The bearer of a key; ``secret`` is the key's stored hash."""
        programs = None if key.programs is None else frozenset(key.programs)
        scopes = frozenset(SCOPES) if "admin" in key.scopes else frozenset(key.scopes)
        return cls(f"key {key.name}", scopes, key.tenant, programs, key.per_minute, key.budget_usd, key.id, secret)

    def may(self, scope: str) -> bool:
        """Whether it has this scope."""
        return scope in self.scopes

    def require(self, scope: str) -> None:
        """Raise HttpRefusal unless it has this scope."""
        if not self.may(scope):
            detail = f"{self.name} has the scopes {', '.join(sorted(self.scopes))}; this needs {scope}"
            raise HttpRefusal(403, "not_allowed", detail, needed=scope)

    def require_program(self, name: str) -> None:
        """Raise HttpRefusal unless it may use this program."""
        if self.programs is not None and name not in self.programs:
            raise HttpRefusal(403, "not_allowed", f"{self.name} may not use program {name!r}")

    def require_whole(self, what: str) -> None:
        """Raise HttpRefusal if it sees a part of the deployment only; ``what`` concerns all of it."""
        if self.tenant is not None or self.programs is not None:
            raise HttpRefusal(403, "not_allowed", f"{self.name} is limited to a tenant or to programs: {what}")

    def sees(self, row: Row) -> bool:
        """Whether it may see the execution in this row."""
        if self.programs is not None and row["program"] not in self.programs:
            return False
        return self.tenant is None or row.get("tenant") == self.tenant


#: Every client of a gateway that needs no key: one of this machine, in development.
LOCAL = Principal("this machine", frozenset(SCOPES))
