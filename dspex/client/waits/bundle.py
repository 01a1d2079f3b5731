"""Bundles as a client sees them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from dspex.store.lifecycle import bundles

__all__ = ["Bundle"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Requests that go through a provider's batch API together.

    ``state`` is ``created``, ``uploaded``, ``creating``, ``running`` or ``ended``; ``provider_state`` the provider's
    own word, or why it ended. ``cost_usd`` is the known part of the cost, ``list_cost_usd`` what ordinary calls would
    have cost: both are 0 for a model without a price. ``trouble`` is why the last step failed: it is done again.
    """

    id: UUID
    model: str
    address: str | None
    state: str
    provider_id: str | None
    provider_state: str | None
    requests: int
    answered: int
    failed: int
    cost_usd: float
    list_cost_usd: float
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    trouble: str | None

    @classmethod
    def of(cls, stored: bundles.StoredBundle) -> Self:
        """The bundle of a row."""
        target = json.loads(stored.target)
        same = {name: getattr(stored, name) for name in cls.__slots__ if name not in ("model", "address")}
        return cls(model=target["model"], address=target["api_base"], **same)
