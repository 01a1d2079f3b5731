"""A check, and what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.operations.doctor.deployment import Deployment

__all__ = [
    "Check",
    "CheckVerdict",
    "Finding",
    "Need",
    "check",
    "counted",
    "met",
    "not_applicable",
    "not_met",
    "unknown",
    "warning",
]

#: How long a check may take by default, in seconds.
SECONDS = 10.0


class CheckVerdict(StrEnum):
    """The verdict on a check, or on a group of checks."""

    #: It is as it should be.
    MET = "met"
    #: It works, but needs an operator's attention.
    WARNING = "warning"
    #: It is not as it must be.
    NOT_MET = "not_met"
    #: It could not be determined: something that the check needs is missing, or the check timed out.
    UNKNOWN = "unknown"
    #: It does not apply to this deployment, or cannot apply from where the doctor runs: it is neither met nor unmet.
    NOT_APPLICABLE = "not_applicable"


class Need(StrEnum):
    """What a check needs; each includes those before it, except that SCHEMA and POSTGRES do not include REDIS."""

    SETTINGS = "settings"
    REDIS = "redis"
    POSTGRES = "postgres"
    SCHEMA = "schema"
    #: A live worker, and all of the above.
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, its ``evidence`` in one line, and a ``fix`` where the check's own does not apply."""

    verdict: CheckVerdict
    evidence: str
    fix: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of a deployment. ``meaning`` is why it matters, ``fix`` what to do when it is not met."""

    name: str
    title: str
    meaning: str
    fix: str
    needs: tuple[Need, ...]
    seconds: float
    find: Callable[[Deployment], Finding]


def check(
    title: str, *needs: Need, fix: str, seconds: float = SECONDS
) -> Callable[[Callable[[Deployment], Finding]], Check]:
    """Make a function a check. Its name becomes the check's, its docstring the meaning."""

    def make(find: Callable[[Deployment], Finding]) -> Check:
        meaning = " ".join(inspect.cleandoc(find.__doc__ or "").split())
        return Check(find.__name__, title, meaning, fix, needs, seconds, find)

    return make


def counted(number: int, what: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def met(evidence: str, **figures: float) -> Finding:
    return Finding(CheckVerdict.MET, evidence, figures=figures)


def warning(evidence: str, fix: str = "", **figures: float) -> Finding:
    return Finding(CheckVerdict.WARNING, evidence, fix, figures)


def not_met(evidence: str, fix: str = "", **figures: float) -> Finding:
    return Finding(CheckVerdict.NOT_MET, evidence, fix, figures)


def unknown(evidence: str, fix: str = "") -> Finding:
    return Finding(CheckVerdict.UNKNOWN, evidence, fix)


def not_applicable(evidence: str) -> Finding:
    return Finding(CheckVerdict.NOT_APPLICABLE, evidence)
