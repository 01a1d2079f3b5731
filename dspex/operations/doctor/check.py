"""What a check is, and what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dspex.operations.doctor.deployment import Deployment

__all__ = ["Check", "Finding", "Need", "Verdict", "check", "counted", "met", "not_met", "skipped", "unknown", "warning"]

#: How long a check may take, in seconds, unless it says otherwise.
SECONDS = 10.0


class Verdict(StrEnum):
    """What is said of a check, or of a group of them."""

    #: It was looked at, and is as it should be.
    MET = "met"
    #: It works, but somebody should know.
    WARNING = "warning"
    #: It is not as it must be.
    NOT_MET = "not_met"
    #: It could not be found out: what it needs is not there, or it was not over in time.
    UNKNOWN = "unknown"
    #: It does not apply here.
    SKIPPED = "skipped"


class Need(StrEnum):
    """What must be there for a check to be made; each includes those before it, but for Redis."""

    SETTINGS = "settings"
    REDIS = "redis"
    POSTGRES = "postgres"
    SCHEMA = "schema"
    #: A live worker, and all of the above.
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, its ``evidence`` in a line, and how to ``mend`` it if not as the check says."""

    verdict: Verdict
    evidence: str
    mend: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to find out about a deployment. ``meaning`` says why it matters, ``mend`` what to do about it."""

    name: str
    title: str
    meaning: str
    mend: str
    needs: tuple[Need, ...]
    seconds: float
    find: Callable[[Deployment], Finding]


def check(
    title: str, *needs: Need, mend: str, seconds: float = SECONDS
) -> Callable[[Callable[[Deployment], Finding]], Check]:
    """Make a function a check of its module's group; its name is the check's, its docstring the meaning."""

    def make(find: Callable[[Deployment], Finding]) -> Check:
        group = find.__module__.rpartition(".")[2]
        meaning = " ".join(inspect.cleandoc(find.__doc__ or "").split())
        return Check(f"{group}.{find.__name__}", title, meaning, mend, needs, seconds, find)

    return make


def counted(number: int, what: str) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def met(evidence: str, **figures: float) -> Finding:
    return Finding(Verdict.MET, evidence, figures=figures)


def warning(evidence: str, mend: str = "", **figures: float) -> Finding:
    return Finding(Verdict.WARNING, evidence, mend, figures)


def not_met(evidence: str, mend: str = "", **figures: float) -> Finding:
    return Finding(Verdict.NOT_MET, evidence, mend, figures)


def unknown(evidence: str, mend: str = "") -> Finding:
    return Finding(Verdict.UNKNOWN, evidence, mend)


def skipped(evidence: str) -> Finding:
    return Finding(Verdict.SKIPPED, evidence)
