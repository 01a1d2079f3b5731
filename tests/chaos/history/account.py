"""What a history came to: figures, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.history.checker import Violation, check
from tests.chaos.history.evidence import Evidence
from tests.chaos.history.record import Operation
from tests.chaos.history.trails import losses

__all__ = ["Account", "account_of"]

#: Violations of each rule that are printed.
SHOWN_MOST = 5


@dataclass(frozen=True)
class Account:
    """What a history came to. ``left_out`` says which faults were left out, and why."""

    seed: int
    operations: int
    acknowledged: int
    stored: int
    unknown: int
    faults: Counter[str]
    lost_attempts: int
    calls_made: int
    calls_needed: int
    violations: Sequence[Violation]
    left_out: Sequence[str]

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        lines = [
            f"CHAOS_SEED={self.seed}: {self.operations} operations, {self.unknown} of unknown outcome; "
            f"{self.acknowledged} submits acknowledged, {self.stored} executions stored",
            f"faults: {faults}",
            f"{self.lost_attempts} attempts lost; {self.calls_needed} calls needed, {self.calls_made} made",
            *(f"left out: {why}" for why in self.left_out),
            *self._violations(),
        ]
        return "\n".join(lines)

    def _violations(self) -> Iterator[str]:
        """The first violations of each rule, and how many more there are."""
        for rule, count in Counter(violation.rule for violation in self.violations).items():
            first = [violation for violation in self.violations if violation.rule == rule][:SHOWN_MOST]
            yield from (f"violation of {violation}" for violation in first)
            if count > len(first):
                yield f"violation of {rule}: {count - len(first)} more"


def account_of(seed: int, history: Sequence[Operation], left_out: Sequence[str]) -> Account:
    """The account of the operations of a history."""
    evidence = Evidence(history)
    lost = sum(len(losses(snapshot["trail"]["events"])) for snapshot in evidence.stored.values())
    return Account(
        seed=seed,
        operations=len(history),
        acknowledged=len(evidence.acknowledged),
        stored=len(evidence.stored),
        unknown=sum(operation.outcome == "unknown" for operation in history),
        faults=Counter(fault.given["kind"] for fault in evidence.of("fault")),
        lost_attempts=lost,
        calls_made=sum(evidence.made.values()),
        calls_needed=len(evidence.made),
        violations=check(history),
        left_out=left_out,
    )
