"""How often a key may submit, and what the executions of its tenant may cost in a calendar month."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from dspex.client.session import Session
from dspex.errors import RateLimited
from dspex.serve import gateway_metrics
from dspex.serve.access.principal import Principal
from dspex.serve.api.problem_details import HttpRefusal
from dspex.store.operations import tenant_costs
from dspex.submit.rate_limit import SubmitRate

__all__ = ["COST_SECONDS", "SubmitLimits"]

#: The cost of a tenant that was read is not read again for so long: a budget may be exceeded by what ends meanwhile.
COST_SECONDS = 5.0
BUDGET_SPENT = "budget_spent"


@dataclass(frozen=True, slots=True)
class _Spent:
    """The cost of a tenant in ``month``: until ``until``, which is final, and since then."""

    read_at: float
    month: datetime
    until: datetime
    closed_usd: float
    open_usd: float
    month_ends_in_seconds: float


class SubmitLimits:
    """Counts submits, and knows what tenants have spent."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rates: dict[str, SubmitRate] = {}
        self._spent: dict[str, _Spent] = {}

    async def count(self, principal: Principal) -> None:
        """Count a submit. Raises RateLimited, and HttpRefusal when the tenant's budget is spent."""
        if principal.per_minute is not None:
            await self._count_rate(principal)
        if principal.tenant is not None and principal.budget_usd is not None:
            await self._require_budget(principal, principal.tenant, principal.budget_usd)

    async def _count_rate(self, principal: Principal) -> None:
        rate = self._rate(principal)
        early_ms = await self._session.driver.call(rate.early_ms)
        if early_ms > 0:
            gateway_metrics.refused(principal.tenant, RateLimited.code)
            seconds = early_ms / 1000
            raise RateLimited(
                f"{principal.name} has submitted as often as it may ({rate.per_minute} a minute, {rate.burst} at "
                f"once), and nothing was stored: try again in {seconds:.3g} s",
                retry_after_seconds=round(seconds, 3),
            )

    def _rate(self, principal: Principal) -> SubmitRate:
        """The keys of a tenant share a count."""
        client = principal.name.replace(" ", ":") if principal.tenant is None else f"tenant:{principal.tenant}"
        known = self._rates.get(principal.name)
        if known is None or (known.per_minute, known.client) != (principal.per_minute, client):
            session = self._session
            known = SubmitRate(session.settings, session.broker, client=client, per_minute=principal.per_minute)
            self._rates[principal.name] = known
        return known

    async def _require_budget(self, principal: Principal, tenant: str, budget_usd: float) -> None:
        spent = await self._cost_of(tenant)
        usd = spent.closed_usd + spent.open_usd
        if usd >= budget_usd:
            gateway_metrics.refused(tenant, BUDGET_SPENT)
            detail = (
                f"the executions of tenant {tenant!r} have cost ${usd:.6g} in this month, and its budget is "
                f"${budget_usd:.6g}: nothing was stored"
            )
            seconds = max(int(spent.month_ends_in_seconds - (time.monotonic() - spent.read_at)), 1)
            raise HttpRefusal(
                402, BUDGET_SPENT, detail, headers={"Retry-After": str(seconds)}, spent_usd=usd, budget_usd=budget_usd
            )

    async def _cost_of(self, tenant: str) -> _Spent:
        known = self._spent.get(tenant)
        if known is not None and time.monotonic() - known.read_at < COST_SECONDS:
            return known
        read_at = time.monotonic()
        since = None if known is None else known.until
        read = partial(tenant_costs.cost_since, tenant=tenant, since=since)
        new = await self._session.driver.call(partial(self._session.database.run, read))
        before = 0.0 if known is None or known.month != new.month else known.closed_usd
        found = _Spent(
            read_at, new.month, new.until, before + new.closed_usd, new.open_usd, new.month_ends_in_seconds
        )  # fmt: skip
        self._spent[tenant] = found
        return found
