"""The purpose of an execution, beside its result: it is scored for an evaluation, it replays another
execution, or it is a call of ``dspex.remote``.

It is stored with the execution as JSON, so that the worker that runs it needs nothing else to know what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

__all__ = ["METRIC_SECONDS", "Purpose", "row_context"]

#: How long a metric may take by default.
METRIC_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Purpose:
    """What is done with an execution.

    ``metric``          scores the outputs: the name of one of DSPex's own, or ``package.module:function``
    ``metric_seconds``  how long the metric may take
    ``dataset``, ``row``  the id of the dataset and the index of the row that it scores by
    ``repeat``          counts the executions of one row in one evaluation, from 0
    ``budget``          the name of a budget that its model calls are paid from, beside the program's
    ``trace``           the calls of its predictors are kept with its results
    ``temperature``     in place of the temperature of the program's model
    ``replay``          the execution whose inputs these are; its recorded answers are given to equal requests
    """

    metric: str | None = None
    metric_seconds: float = METRIC_SECONDS
    dataset: UUID | None = None
    row: int = 0
    repeat: int = 0
    budget: str | None = None
    replay: UUID | None = None
    trace: bool = False
    temperature: float | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The purpose as JSON-friendly data, without what has its default."""
        kept = {name: value for name in _DEFAULTS if (value := getattr(self, name)) != _DEFAULTS[name]}
        return {name: str(value) if isinstance(value, UUID) else value for name, value in kept.items()}

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Purpose:
        """The purpose in a stored mapping. What a newer DSPex added to it is ignored."""
        values = {name: value for name, value in (stored or {}).items() if name in _DEFAULTS}
        for name in ("dataset", "replay"):
            if values.get(name) is not None:
                values[name] = UUID(str(values[name]))
        return cls(**values)


_DEFAULTS: Mapping[str, Any] = {
    "metric": None, "metric_seconds": METRIC_SECONDS, "dataset": None, "row": 0, "repeat": 0, "budget": None,
    "replay": None, "trace": False, "temperature": None,
}  # fmt: skip


def row_context(id: object, index: int) -> str:
    """The place that a sealed row of a dataset is bound to."""
    return f"{id}:row:{index}"
