"""The report: the result of every check, group by group, and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dspex.operations.doctor.check import Check, CheckVerdict
from dspex.operations.doctor.groups import CheckGroup

__all__ = ["CheckOutcome", "GroupReport", "Report", "worst"]

#: The worst first; the verdict on a group is the worst of its checks'.
_WORST_FIRST = (
    CheckVerdict.NOT_MET,
    CheckVerdict.UNKNOWN,
    CheckVerdict.WARNING,
    CheckVerdict.MET,
    CheckVerdict.NOT_APPLICABLE,
)
#: What needs attention.
_ATTENTION = (CheckVerdict.NOT_MET, CheckVerdict.UNKNOWN, CheckVerdict.WARNING)
#: What counts as met.
GOOD = (CheckVerdict.MET, CheckVerdict.WARNING)
#: The points of each verdict; a check that does not apply does not count.
_POINTS = {CheckVerdict.MET: 1.0, CheckVerdict.WARNING: 0.5, CheckVerdict.NOT_MET: 0.0, CheckVerdict.UNKNOWN: 0.0}


def worst(verdicts: Sequence[CheckVerdict]) -> CheckVerdict:
    """The worst of some verdicts; met and not applicable together are met."""
    return min(verdicts, key=_WORST_FIRST.index, default=CheckVerdict.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The result of a check: what it found, how long it took, and the ``fix`` where one is needed."""

    check: Check
    verdict: CheckVerdict
    evidence: str
    fix: str
    ms: float
    figures: Mapping[str, float]

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "title": self.check.title,
            "verdict": self.verdict.value,
            "evidence": self.evidence,
            "fix": self.fix or None,
            "ms": self.ms,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class GroupReport:
    group: CheckGroup
    results: Sequence[CheckOutcome]

    @property
    def verdict(self) -> CheckVerdict:
        return worst([result.verdict for result in self.results])

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.group.name,
            "title": self.group.title,
            "requirement": self.group.requirement,
            "verdict": self.verdict.value,
            "checks": [result.as_data() for result in self.results],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an examination. ``unreachable``: Postgres or Redis could not be reached."""

    at: datetime
    version: str
    env: str | None
    seconds: float
    unreachable: bool
    groups: Sequence[GroupReport]

    @property
    def results(self) -> list[CheckOutcome]:
        return [result for group in self.groups for result in group.results]

    @property
    def attention(self) -> list[CheckOutcome]:
        """The results that need attention, the worst first."""
        found = [result for result in self.results if result.verdict in _ATTENTION]
        return sorted(found, key=lambda result: _WORST_FIRST.index(result.verdict))

    @property
    def requirements(self) -> list[GroupReport]:
        """The requirements that apply to this deployment."""
        found = (group for group in self.groups if group.group.requirement)
        return [group for group in found if group.verdict is not CheckVerdict.NOT_APPLICABLE]

    @property
    def requirements_met(self) -> int:
        return sum(group.verdict in GOOD for group in self.requirements)

    @property
    def score(self) -> int:
        """Out of 100: each check that applies counts the same, a warning half; 100 when there is nothing to fix."""
        points = [_POINTS[result.verdict] for result in self.results if result.verdict in _POINTS]
        return int(100 * sum(points) / len(points)) if points else 0

    @property
    def ready(self) -> bool:
        """Whether every check is met, and none is unknown."""
        return not any(result.verdict in (CheckVerdict.NOT_MET, CheckVerdict.UNKNOWN) for result in self.results)

    def counts(self) -> dict[str, int]:
        return {v.value: sum(result.verdict is v for result in self.results) for v in CheckVerdict}

    def as_data(self) -> dict[str, Any]:
        """The report as ``--json`` prints it."""
        return {
            "at": self.at.isoformat(),
            "version": self.version,
            "env": self.env,
            "ready": self.ready,
            "unreachable": self.unreachable,
            "requirements_met": self.requirements_met,
            "requirements": len(self.requirements),
            "score": self.score,
            "seconds": round(self.seconds, 3),
            "counts": self.counts(),
            "groups": [group.as_data() for group in self.groups],
        }
