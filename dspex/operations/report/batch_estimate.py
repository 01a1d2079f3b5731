"""What all rows of a batch will cost and take, from a sample of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

__all__ = ["BatchEstimate", "Interval", "SampledRow", "batch_estimate", "spread_indexes"]

#: The share of samples whose interval covers the true value.
COVERAGE = 0.95
_Z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
_T_OF_TWO_AND_THREE = {1: 12.706, 2: 4.303}

#: The price of each route as a share of the ordinary price, by provider, as their price lists have it:
#: https://platform.openai.com/docs/pricing (Batch, Flex), https://docs.claude.com/en/docs/build-with-claude/batch-processing,
#: https://ai.google.dev/gemini-api/docs/batch-api, https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch
ROUTE_PRICES: Mapping[str, Mapping[str, float]] = {
    "openai": {"batch": 0.5, "flex": 0.5},
    "anthropic": {"batch": 0.5},
    "gemini": {"batch": 0.5},
    "azure": {"batch": 0.5},
}


ROUTES = ("batch", "flex")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and between which values it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row of the sample that was executed, or rejected: ``failure`` is the code of the cause."""

    cost_usd: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class BatchEstimate:
    """The estimate for all ``rows``, from ``sampled`` of them.

    ``cost_usd`` is None when the price of a call is unknown; ``routes`` are the costs by the cheaper routes of the
    provider, None where unknown. ``seconds`` is with ``slots`` executions at once. ``failure_rate`` is from 0 to 1.
    """

    rows: int
    sampled: int
    cost_usd: Interval | None
    tokens: Interval
    seconds: Interval
    slots: int
    failure_rate: Interval
    causes: Mapping[str, int]
    routes: Mapping[str, Interval | None]


def spread_indexes(rows: int, count: int) -> Sequence[int]:
    """The indexes of ``count`` rows that are spread evenly over ``rows``: a file is often sorted."""
    count = min(rows, count)
    return [(2 * number + 1) * rows // (2 * count) for number in range(count)]


def batch_estimate(
    sample: Sequence[SampledRow], rows: int, *, slots: int, per_minute: int | None, model: str | None
) -> BatchEstimate:
    """The estimate for ``rows`` from a sample that is not empty.

    ``slots`` is how many executions run at once, ``per_minute`` how many may begin in a minute, ``model`` the
    program's model.
    """
    total = _totals(rows, len(sample))
    causes = Counter(row.failure for row in sample if row.failure is not None)
    priced = [row.cost_usd for row in sample if row.cost_usd is not None]
    cost = total(priced) if len(priced) == len(sample) else None
    seconds = total([row.seconds for row in sample]).times(1 / max(slots, 1))
    least = 60 * rows / per_minute if per_minute else 0.0
    return BatchEstimate(
        rows=rows,
        sampled=len(sample),
        cost_usd=cost,
        tokens=total([row.tokens for row in sample]),
        seconds=Interval(max(seconds.value, least), max(seconds.low, least), max(seconds.high, least)),
        slots=slots,
        failure_rate=_share(causes.total(), len(sample)),
        causes=dict(causes.most_common()),
        routes={} if cost is None or model is None else _routes(cost, model),
    )


def _routes(cost: Interval, model: str) -> Mapping[str, Interval | None]:
    """The cost by each cheaper route; none for a model without a provider."""
    provider, slash, _ = model.partition("/")
    if not slash:
        return {}
    shares = ROUTE_PRICES.get(provider)
    return dict.fromkeys(ROUTES) if shares is None else {route: cost.times(share) for route, share in shares.items()}


def _totals(rows: int, sampled: int) -> Callable[[Sequence[float]], Interval]:
    """A function that gives the sum over all rows, from the values in the sample.

    By Student's t, with the correction for a sample that is a large part of the rows. The sum over the sample itself is
    known, so no total is less.
    """

    def total(values: Sequence[float]) -> Interval:
        mean = fmean(values)
        if sampled == rows:
            return Interval(mean * rows, mean * rows, mean * rows)
        if sampled == 1:
            return Interval(mean * rows, values[0], math.inf if mean else 0.0)
        error = stdev(values) / math.sqrt(sampled) * math.sqrt(1 - sampled / rows)
        margin = _student(sampled - 1) * error * rows
        return Interval(mean * rows, max(mean * rows - margin, math.fsum(values)), mean * rows + margin)

    return total


def _student(degrees: int) -> float:
    """The quantile of Student's t (Abramowitz and Stegun 26.7.5)."""
    if degrees in _T_OF_TWO_AND_THREE:
        return _T_OF_TWO_AND_THREE[degrees]
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def _share(found: int, count: int) -> Interval:
    """A share by Wilson's interval, which holds for small samples and for none found."""
    share, z = found / count, _Z
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    margin = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(middle - margin, 0.0), min(middle + margin, 1.0))
