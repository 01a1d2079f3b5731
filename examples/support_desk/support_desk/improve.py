"""Make the classifier better from its own traffic: ``python -m support_desk.improve [PAGE.html]``.

deploy → a day of tickets → feedback → dataset → evaluate → optimise → compare → rollout → promote. Like
``python -m support_desk``, it uses the embedded stack that `dspex up` runs, or starts one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import dspex
from dspex.client.improvement.evaluation_page import comparison_page
from dspex.embedded.embedded_stack import stop_on_signals
from support_desk.__main__ import stack
from support_desk.programs import triage
from support_desk.tickets import HELD_OUT, TRAINING

METRIC = "support_desk.metrics:routed"
#: The candidates of the search: without examples, with tickets as they are, and with answers that were right.
SEARCH = {"max_bootstrapped_demos": 6, "max_labeled_demos": 9, "num_candidate_programs": 4}
#: The classifier as it was before anything was optimised.
PLAIN = replace(triage, name="desk_triage_improved", state=None)


def main() -> None:
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "improvement.html")
    with stop_on_signals(), stack(), dspex.Client() as client:
        walk(client, page)


def walk(client: dspex.Client, page: Path) -> None:
    client.deploy(PLAIN, note="without examples")
    tickets = _a_day(client)
    held_out = client.dataset(
        "desk_held_out", [{"ticket": ticket, "queue": queue} for ticket, queue in HELD_OUT], inputs=["ticket"]
    )
    before = client.evaluate(PLAIN.name, held_out, metric=METRIC).wait(timeout=600)
    print(f"as it is: {before.score:.2f} of the held-out tickets")
    best = _optimised(client, tickets)
    after = client.evaluate(PLAIN.name, held_out, metric=METRIC, version=best).wait(timeout=600)
    comparison = after.compare(before)
    page.write_text(comparison_page(comparison), encoding="utf-8")
    print(comparison.sentence)
    print(f"the plots are in {page}")
    if (after.score or 0) <= (before.score or 0):
        print("no better version was found: the current one stays")
    else:
        _roll_out(client, best)


def _a_day(client: dspex.Client) -> dspex.Dataset:
    """Run the tickets, correct what went to the wrong queue, and make a dataset of them."""
    executions = [client.submit(PLAIN.name, {"ticket": ticket}) for ticket, _ in TRAINING]
    for execution, (_, queue) in zip(executions, TRAINING, strict=True):
        right = execution.result(timeout=600).queue == queue
        execution.feedback(score=float(right), outputs=None if right else {"queue": queue}, by="the desk")
    judged = client.list(program=PLAIN.name, feedback="any", limit=len(TRAINING))
    dataset = client.dataset("desk_tickets", executions=judged)
    print(f"{len(dataset)} tickets with their queues: dataset {dataset.name} {dataset.version}")
    return dataset


def _optimised(client: dspex.Client, tickets: dspex.Dataset) -> str:
    """The best version that an optimiser finds; its rollouts are executions like the others."""
    job = client.optimize(
        PLAIN.name, trainset=tickets, metric=METRIC, optimizer="bootstrap_random_search", options=SEARCH
    )
    result = job.result(timeout=1200)
    for candidate in job.candidates():
        if candidate.executions >= len(tickets):
            demos = sum(map(len, candidate.demos.values()))
            print(f"tried {candidate.version}: {demos} examples, score {candidate.score:.2f}")
    return result.version


def _roll_out(client: dspex.Client, version: str) -> None:
    """Send half of the next tickets to the version, and make it the current one if it does its work."""
    client.alias(PLAIN.name, "challenger", version)
    client.rollout(PLAIN.name, "challenger", percent=50, guard=dspex.Guard(max_error_rate=0.2, min_executions=5))
    executions = [client.submit(PLAIN.name, {"ticket": ticket}) for ticket, _ in HELD_OUT]
    new = [execution for execution in executions if execution.version == version]
    for execution in executions:
        execution.result(timeout=600)
    print(f"{len(new)} of {len(executions)} tickets went to the new version")
    client.promote(PLAIN.name, "challenger")
    print(f"{version} is the current version: `dspex versions {PLAIN.name}`")


if __name__ == "__main__":
    main()
