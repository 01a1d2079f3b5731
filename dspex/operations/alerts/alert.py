"""An alert, and what a channel is given to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dspex.operations.alerts.alert_rules import RULES

__all__ = ["Alert", "Notice"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A figure that was found above its threshold.

    ``state``: pending (it has not lasted for DSPEX_ALERT_AFTER_SECONDS yet), firing, resolved. ``subject``: the
    program, worker or component; empty for the deployment. ``since`` is when it was first found, ``seen_at`` when it
    was last. ``undelivered`` counts what channels have still to tell of it, and ``delivery_error`` is the last failure.
    """

    id: int
    rule: str
    subject: str
    state: str
    value: float
    threshold: float
    summary: str
    since: datetime
    seen_at: datetime
    fired_at: datetime | None = None
    resolved_at: datetime | None = None
    undelivered: int = 0
    delivery_error: str | None = None

    @property
    def remedy(self) -> str:
        return RULES[self.rule].remedy.format(subject=self.subject)

    def as_dict(self) -> dict[str, Any]:
        """JSON-friendly."""
        times = {name: getattr(self, name) for name in ("since", "seen_at", "fired_at", "resolved_at")}
        return {
            **{name: getattr(self, name) for name in self.__slots__ if name not in times},
            **{name: None if at is None else at.isoformat() for name, at in times.items()},
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of an alert: ``event`` is firing, reminder, resolved or test. ``id`` is the same at each try."""

    id: str
    event: str
    alert: Alert

    @property
    def line(self) -> str:
        """In one line of words."""
        subject = f" {self.alert.subject}" if self.alert.subject else ""
        was = "was: " if self.event == "resolved" else ""
        return f"{self.event.upper()} {self.alert.rule}{subject}: {was}{self.alert.summary}"

    @property
    def advice(self) -> Sequence[str]:
        """What to do, in a line; none once it is over."""
        return () if self.event == "resolved" else (self.alert.remedy,)
