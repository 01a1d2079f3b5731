"""Failpoints: named places where a test can make the process die, hang, stop or fail.

``DSPEX_FAILPOINTS="after_claim=kill,before_settle=stop@2"`` arms two of them. An action is one of

``kill``   SIGKILL to this process, like a crash or the kernel's out-of-memory killer
``stop``   SIGSTOP to this process: it stops until SIGCONT, like a frozen or swapping machine
``hang``   the thread hangs forever
``error``  raises FailpointReached

and happens at each passage, or only at the n-th with ``@n``. An unarmed failpoint costs one check of a global.
Failpoints cannot be armed in production: see :mod:`dspex.settings`.
"""

from __future__ import annotations

import difflib
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dspex.errors import DspexError

__all__ = [
    "AFTER_ANSWER",
    "AFTER_BATCH_LINE",
    "AFTER_BUNDLE_ANSWERS",
    "AFTER_BUNDLE_CREATED",
    "AFTER_BUNDLE_INTENDED",
    "AFTER_BUNDLE_SENT",
    "AFTER_BUNDLE_STORED",
    "AFTER_BUNDLE_UPLOADED",
    "AFTER_CLAIM",
    "AFTER_DISPATCH",
    "AFTER_HAND_BACK",
    "AFTER_INSERT",
    "AFTER_INTENTION",
    "AFTER_JOURNAL",
    "AFTER_PUBLISH",
    "AFTER_RECOVER",
    "AFTER_SETTLE",
    "BEFORE_CLAIM",
    "BEFORE_INSERT",
    "BEFORE_PUBLISH",
    "BEFORE_RECOVER",
    "BEFORE_SETTLE",
    "BETWEEN_BUNDLE_LINES",
    "BETWEEN_CHUNKS",
    "DURING_TABLE",
    "NAMES",
    "FailpointReached",
    "arm",
    "failpoint",
    "parse",
]

#: In the producer, with the submits of one or several callers about to share a statement: nothing is stored.
BEFORE_INSERT = "before_insert"

#: In the producer, after the commit of these submits: Redis has no message, and no caller has an id.
AFTER_INSERT = "after_insert"

#: In the publisher (producer or pump), before it publishes: the row is marked as dispatched, and no message exists.
BEFORE_PUBLISH = "before_publish"

#: In the publisher, once Redis has the message: a worker may run it while the publisher is dead.
AFTER_PUBLISH = "after_publish"

#: In ``submit_many``, after a chunk is committed: a batch of which only the first rows exist.
BETWEEN_CHUNKS = "between_chunks"

#: In ``dspex batch``, once a line is written, which the next flush brings to the file.
AFTER_BATCH_LINE = "after_batch_line"

#: In ``dspex batch``, with a part of a table in its draft: the output is not there yet, or is an earlier one.
DURING_TABLE = "during_table"

#: In the pump, once executions are marked as dispatched and before the first of them is published.
AFTER_DISPATCH = "after_dispatch"

#: In the worker, with the message in hand and nothing claimed: the message is gone from the queue, the row untouched.
BEFORE_CLAIM = "before_claim"

#: In the worker, once the claim is committed: the execution runs under the lease of a worker that does nothing.
AFTER_CLAIM = "after_claim"

#: In the worker, with a model's answer in memory and not yet in the journal: the one call that is paid for again.
AFTER_ANSWER = "after_answer"

#: In the worker, once the answer is journaled: from here on it is replayed, never asked for again.
AFTER_JOURNAL = "after_journal"

#: In the worker, with the outcome known and nothing of it recorded: another attempt finds it again from the journal.
BEFORE_SETTLE = "before_settle"

#: In the worker, once the outcome is committed: the message is not acknowledged, and no client is notified.
AFTER_SETTLE = "after_settle"

#: In the worker, once the intention to call a tool that is called once is committed, and before the call.
AFTER_INTENTION = "after_intention"

#: In the leader, once the requests of a bundle are chosen and nothing is sent to the provider.
AFTER_BUNDLE_STORED = "after_bundle_stored"

#: In the leader, while it sends the requests of a bundle: some are sent, and others are not.
BETWEEN_BUNDLE_LINES = "between_bundle_lines"

#: In the leader, once the provider has the file of a bundle, and before that is recorded.
AFTER_BUNDLE_UPLOADED = "after_bundle_uploaded"

#: In the leader, once the intention to create a batch is committed, and before the request that creates it.
AFTER_BUNDLE_INTENDED = "after_bundle_intended"

#: In the leader, once the provider has created a batch, which is paid for, and before its id is recorded.
AFTER_BUNDLE_SENT = "after_bundle_sent"

#: In the leader, once the id of the provider's batch is recorded.
AFTER_BUNDLE_CREATED = "after_bundle_created"

#: In the leader, once some answers of a bundle are in the journal, and others are not.
AFTER_BUNDLE_ANSWERS = "after_bundle_answers"

#: In the reaper, before it looks for dead workers: their executions wait for the next leader.
BEFORE_RECOVER = "before_recover"

#: In the reaper, once the executions of dead workers are queued again, before they are dispatched.
AFTER_RECOVER = "after_recover"

#: In a stopping worker, once it has handed back its unfinished executions, before it gives up its lease.
AFTER_HAND_BACK = "after_hand_back"

NAMES = frozenset(value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str))
ACTIONS = ("kill", "stop", "hang", "error")


class FailpointReached(DspexError):
    """A failpoint armed with =error was reached."""

    code = "failpoint"


@dataclass(frozen=True, slots=True)
class FailpointAction:
    """What happens, and at which passage; ``at`` is None for each."""

    kind: str
    at: int | None = None


_armed = False
_actions: dict[str, FailpointAction] = {}
_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Pass the failpoint ``name``, and run its action if it is armed."""
    if _armed:
        _pass(name)


def arm(spec: str) -> None:
    """Arm the failpoints of ``spec`` in this process. Raises ValueError for an invalid spec."""
    global _armed  # noqa: PLW0603 - the one check that an unarmed failpoint costs
    _actions.update(parse(spec))
    _armed = bool(_actions)


def parse(spec: str) -> Mapping[str, FailpointAction]:
    """The actions by name. Raises ValueError, with the nearest name, for an unknown name."""
    return dict(_parse_one(part.strip()) for part in spec.split(",") if part.strip())


def _parse_one(part: str) -> tuple[str, FailpointAction]:
    name, _, action = part.partition("=")
    kind, at_passage, number = action.partition("@")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        raise ValueError(f"{name!r} is not a failpoint" + (f"; did you mean {near[0]!r}?" if near else ""))
    if kind not in ACTIONS:
        raise ValueError(f"failpoint {name!r}: {kind!r} is not one of {', '.join(ACTIONS)}")
    if at_passage and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"failpoint {name!r}: the passage after '@' is a number from 1, got {number!r}")
    return name, FailpointAction(kind, int(number) if at_passage else None)


def _pass(name: str) -> None:
    action = _actions.get(name)
    if action is None:
        return
    _passages[name] += 1
    if action.at is None or action.at == _passages[name]:
        _act(name, action.kind)


def _act(name: str, kind: str) -> None:
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            threading.Event().wait()
        case "error":
            raise FailpointReached(f"failpoint {name!r} was reached")
