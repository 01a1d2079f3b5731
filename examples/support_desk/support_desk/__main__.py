"""Run the programs and count right answers: ``make example``, or ``python -m support_desk [--first N] [PROGRAM ...]``.

The script uses the embedded stack of DSPEX_HOME that `dspex up` runs, or starts one. The worker must find this package
and must be allowed to use it, so the script sets DSPEX_PROGRAM_PACKAGES and PYTHONPATH for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dspex
from dspex.embedded import read_stack
from dspex.embedded.embedded_stack import EmbeddedStack, stop_on_signals
from dspex.settings import Settings
from support_desk import programs
from support_desk.tickets import HELD_OUT

#: A question, the document that answers it, and a word that a right answer contains.
QUESTIONS = [
    ("How much does express delivery cost?", "delivery", "12"),
    ("How many days do I have to send something back?", "returns", "30"),
    ("How long is the warranty of a lamp?", "warranty", "five"),
    ("Which bulbs fit the Aurora lamp?", "lamp", "E27"),
]
#: A request, and a word that a right reply contains.
REQUESTS = [
    ("Where is my order 1002?", "Thursday"),
    ("When is the shop open?", "Saturday"),
]


def main() -> None:
    parser = argparse.ArgumentParser("support_desk")
    parser.add_argument("programs", nargs="*", default=["desk_answers", "desk_agent", "desk_triage"])
    parser.add_argument("--first", type=int, metavar="N", help="only the first N texts of each program")
    options = parser.parse_args()
    wanted, first = options.programs, options.first
    with stop_on_signals(), stack(), dspex.Client() as client:
        for program in (programs.answers, programs.agent, programs.triage):
            client.deploy(program)
        if "desk_answers" in wanted:
            _show(client, "desk_answers", "question", [row[0] for row in QUESTIONS[:first]], _judge_answers)
        if "desk_agent" in wanted:
            _show(client, "desk_agent", "request", [row[0] for row in REQUESTS[:first]], _judge_replies)
        if "desk_triage" in wanted:
            _show(client, "desk_triage", "ticket", [row[0] for row in HELD_OUT[:first]], _judge_queues)


@contextmanager
def stack() -> Iterator[None]:
    home = Settings.load(database_url=None, broker_url=None).home
    if read_stack(home) is not None:
        print(f"Using the running stack at {home}. Its worker must have been started with")
        print("DSPEX_PROGRAM_PACKAGES=support_desk and this package on its PYTHONPATH.")
        yield
        return
    here = str(Path(__file__).parents[1])
    os.environ["DSPEX_PROGRAM_PACKAGES"] = "support_desk"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    print(f"Starting the embedded stack at {home}")
    with EmbeddedStack(home, flower=False, beat=False):
        yield


def _show(
    client: dspex.Client, program: str, field: str, texts: Sequence[str], judge: Callable[[int, dspex.Result], bool]
) -> None:
    """Run all texts at once; print each with its outputs and whether they contain the expected word."""
    executions = [client.submit(program, {field: text}) for text in texts]
    right = 0
    print(f"\n{program}")
    for number, execution in enumerate(executions):
        try:
            result = execution.result(timeout=300)
            good, shown = judge(number, result), ", ".join(f"{name}={value!r}" for name, value in result.items())
        except dspex.ExecutionFailed as failure:
            good, shown = False, f"failed: {failure.code}"
        right += good
        print(f"  {'right' if good else 'WRONG'}  {texts[number]}  →  {shown}{_tools(client, execution)}")
    print(f"  {right} of {len(texts)} right")


def _tools(client: dspex.Client, execution: dspex.Execution) -> str:
    """The tools that the execution called, from its audit trail."""
    trail = client.get(execution.id).audit_trail
    called = [event.data["tool"] for event in trail if event.kind == "tool_call"]
    return f"  (called {', '.join(called)})" if called else ""


def _judge_answers(number: int, result: dspex.Result) -> bool:
    _, source, word = QUESTIONS[number]
    return result.source == source and word.lower() in result.answer.lower()


def _judge_replies(number: int, result: dspex.Result) -> bool:
    return REQUESTS[number][1].lower() in result.reply.lower()


def _judge_queues(number: int, result: dspex.Result) -> bool:
    return bool(result.queue == HELD_OUT[number][1])


if __name__ == "__main__":
    main()
