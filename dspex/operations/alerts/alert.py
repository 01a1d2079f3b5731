"""Alerts and their notifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dspex.operations.alerts.alert_rules import ALERT_RULES

__all__ = ["Alert", "Notice"]


@dataclass(frozen=True, slots=True)
class Alert:
    """A figure above its threshold.

    ``state``: pending (shorter than DSPEX_ALERT_AFTER_SECONDS), firing or resolved. ``subject``: the program, worker
    or component; empty for the deployment. ``since`` is when the figure was first above the threshold, ``seen_at``
    when it was last. ``undelivered`` is the number of notifications not sent yet, ``delivery_error`` the last failure.
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
    def fix(self) -> str:
        """How to fix the problem."""
        return ALERT_RULES[self.rule].fix.format(subject=self.subject)

    def as_dict(self) -> dict[str, Any]:
        """JSON-friendly."""
        times = {name: getattr(self, name) for name in ("since", "seen_at", "fired_at", "resolved_at")}
        return {
            **{name: getattr(self, name) for name in self.__slots__ if name not in times},
            **{name: None if at is None else at.isoformat() for name, at in times.items()},
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification of an alert. ``event``: firing, reminder, resolved or test. ``id`` is the same at each attempt."""

    id: str
    event: str
    alert: Alert

    @property
    def line(self) -> str:
        """The notification as one line of text."""
        subject = f" {self.alert.subject}" if self.alert.subject else ""
        was = "was: " if self.event == "resolved" else ""
        return f"{self.event.upper()} {self.alert.rule}{subject}: {was}{self.alert.summary}"

    @property
    def fix_lines(self) -> Sequence[str]:
        """How to fix the problem, as lines of text; none for a resolved alert."""
        return () if self.event == "resolved" else (self.alert.fix,)
