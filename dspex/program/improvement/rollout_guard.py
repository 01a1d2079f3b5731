"""The guard of a rollout: what ends it by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dspex.errors import FieldError

__all__ = ["Guard", "RolloutFigures"]


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """What the executions of a rollout came to since it began, beside the executions of the current version.

    ``ended`` counts completed and failed executions; costs are means in US dollars, None when unknown; ``score`` is the
    mean of the ``scored`` judgements that users gave as feedback.
    """

    ended: int = 0
    failed: int = 0
    cost_usd: float | None = None
    current_ended: int = 0
    current_cost_usd: float | None = None
    scored: int = 0
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What ends a rollout; ``None`` is no limit.

    ``max_error_rate``   the share of its executions that may fail, from 0 to 1
    ``min_score``        the least mean score of the feedback on its executions
    ``max_cost_ratio``   the most that its mean cost may be, as a multiple of the current version's
    ``min_executions``   how many executions, or scores, it takes to judge by; 20
    """

    max_error_rate: float | None = None
    min_score: float | None = None
    max_cost_ratio: float | None = None
    min_executions: int = 20

    @property
    def content(self) -> dict[str, Any]:
        """The guard as JSON-friendly data."""
        return asdict(self)

    def faults(self) -> Iterator[FieldError]:
        """The faults of its values."""
        for name, least, most in (("max_error_rate", 0, 1), ("min_score", -math.inf, math.inf),
                                  ("max_cost_ratio", 0, math.inf)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and least <= value <= most):
                expected = "a number" if math.isinf(least) else f"a number, at least {least}"
                yield FieldError(f"guard.{name}", expected + (f" and at most {most}" if most == 1 else ""), repr(value))
        if not isinstance(self.min_executions, int) or isinstance(self.min_executions, bool) or self.min_executions < 1:
            yield FieldError("guard.min_executions", "a positive integer", repr(self.min_executions))

    def tripped_by(self, figures: RolloutFigures) -> tuple[str, str] | None:
        """The name of the limit that these figures exceed, and why in words; None for none."""
        return self._errors(figures) or self._score(figures) or self._cost(figures)

    def _errors(self, figures: RolloutFigures) -> tuple[str, str] | None:
        if self.max_error_rate is None or figures.ended < self.min_executions:
            return None
        rate = figures.failed / figures.ended
        if rate <= self.max_error_rate:
            return None
        return "max_error_rate", (
            f"{figures.failed} of its {figures.ended} executions failed ({rate:.1%}); the guard allows "
            f"{self.max_error_rate:.1%}"
        )

    def _score(self, figures: RolloutFigures) -> tuple[str, str] | None:
        if self.min_score is None or figures.score is None or figures.scored < self.min_executions:
            return None
        if figures.score >= self.min_score:
            return None
        return "min_score", (
            f"the mean score of {figures.scored} judgements is {figures.score:.3g}; the guard wants {self.min_score:g}"
        )

    def _cost(self, figures: RolloutFigures) -> tuple[str, str] | None:
        cost, current = figures.cost_usd, figures.current_cost_usd
        if self.max_cost_ratio is None or cost is None or not current:
            return None
        if min(figures.ended, figures.current_ended) < self.min_executions or cost <= self.max_cost_ratio * current:
            return None
        return "max_cost_ratio", (
            f"an execution costs {cost / current:.2f} times what it costs with the current version; the guard allows "
            f"{self.max_cost_ratio:g}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
