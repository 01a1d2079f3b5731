"""The report: what was found, group by group, and how much of it is as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dspex.operations.doctor.check import Check, Verdict
from dspex.operations.doctor.groups import Group

__all__ = ["Checked", "GroupReport", "Report", "worst"]

#: From the worst on; a group is what the worst of its checks is.
_WORST_FIRST = (Verdict.NOT_MET, Verdict.UNKNOWN, Verdict.WARNING, Verdict.MET, Verdict.SKIPPED)
#: What counts as met.
GOOD = (Verdict.MET, Verdict.WARNING)
#: What each verdict is worth; what does not apply here does not count.
_WORTH = {Verdict.MET: 1.0, Verdict.WARNING: 0.5, Verdict.NOT_MET: 0.0, Verdict.UNKNOWN: 0.0}


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of some verdicts; met and skipped together are met."""
    return min(verdicts, key=_WORST_FIRST.index, default=Verdict.SKIPPED)


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that was made: what it found, in which time, and how to mend it where that is needed."""

    check: Check
    verdict: Verdict
    evidence: str
    mend: str
    ms: float
    figures: Mapping[str, float]

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.check.name,
            "title": self.check.title,
            "verdict": self.verdict.value,
            "evidence": self.evidence,
            "mend": self.mend or None,
            "ms": self.ms,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class GroupReport:
    group: Group
    checks: Sequence[Checked]

    @property
    def verdict(self) -> Verdict:
        return worst([checked.verdict for checked in self.checks])

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.group.name,
            "title": self.group.title,
            "requirement": self.group.requirement,
            "verdict": self.verdict.value,
            "checks": [checked.as_data() for checked in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What an examination found. ``unreachable``: Postgres or Redis could not be asked."""

    at: datetime
    version: str
    env: str | None
    seconds: float
    unreachable: bool
    groups: Sequence[GroupReport]

    @property
    def checks(self) -> list[Checked]:
        return [checked for group in self.groups for checked in group.checks]

    @property
    def requirements(self) -> list[GroupReport]:
        return [group for group in self.groups if group.group.requirement]

    @property
    def requirements_met(self) -> int:
        return sum(group.verdict in GOOD for group in self.requirements)

    @property
    def score(self) -> int:
        """Of 100: each check that applies counts the same, a warning half. 100 only when nothing is left to mend."""
        worth = [_WORTH[checked.verdict] for checked in self.checks if checked.verdict in _WORTH]
        return int(100 * sum(worth) / len(worth)) if worth else 0

    @property
    def ready(self) -> bool:
        """Whether nothing is unmet, and nothing is left unknown."""
        return not any(checked.verdict in (Verdict.NOT_MET, Verdict.UNKNOWN) for checked in self.checks)

    def counts(self) -> dict[str, int]:
        return {v.value: sum(checked.verdict is v for checked in self.checks) for v in Verdict}

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
