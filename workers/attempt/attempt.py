"""An attempt at an execution: one object from its claim to its settlement."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from dspex.program.calls.routes import CallsRoute
from dspex.program.improvement.purpose import Purpose
from dspex.program.program import Program
from dspex.sealing.values import SealedAttempt, Sealing
from dspex.store.lifecycle.executions import Claimed
from workers.adapters.contract import Run, Stream
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.retry_policy import Deferred
from workers.attempt.stream import AttemptStream, StreamWithout
from workers.attempt.supervision import Ending, Supervised
from workers.attempt.waiting.attempt_waits import AttemptWaits
from workers.attempt.waiting.children import Children
from workers.attempt.waiting.parking import Parking
from workers.lm.journal import AttemptJournal, CallStore
from workers.lm.limits.permits import CallLimits
from workers.lm.model_calls import ModelCalls

__all__ = ["NO_PURPOSE", "Attempt", "Hosted"]


#: Most executions have none.
NO_PURPOSE = Purpose()


class Hosted(NamedTuple):
    """A hosted program's valid outputs: ``result`` is JSON text, ``adapter`` the one that produced them."""

    result: str
    adapter: str


class Attempt:
    """One attempt, from its claim to its settlement. It begins at once: ``host`` runs as a task of its own.

    ``program`` is None until it is read, unless this worker has hosted it before. ``sealed`` seals what is stored of
    the attempt; it is None when nothing is to be sealed, and until :meth:`open`.
    """

    def __init__(
        self,
        claimed: Claimed,
        trail: AttemptTrail,
        *,
        program: Program | None,
        stream: AttemptStream | None,
        calls: CallStore,
        host: Callable[[Attempt], Coroutine[Any, Any, Hosted]],
        leave_slot: Callable[[], None],
    ) -> None:
        self.claimed = claimed
        self.trail = trail
        self.program = program
        self.stream = stream
        self.sealed: SealedAttempt | None = None
        self.journal = AttemptJournal(claimed.id, claimed.attempt, calls)
        self.deadline = time.monotonic() + claimed.allowed_seconds
        #: The results of the program's actions, by name.
        self.action_results: dict[str, Any] = {}
        #: What the program gave besides its outputs, by name.
        self.extra: dict[str, Any] = {}
        #: What the metric of an evaluation gave its outputs.
        self.score: float | None = None
        self._calls: ModelCalls | None = None
        self._leave_slot = leave_slot
        self.work = Supervised(host(self))
        # Not a method of this attempt: it would be freed only when Python's collector looks for cycles.
        self.parking = Parking(partial(self.work.end, Ending.PARKED))

    def open(
        self, program: Program, sealing: Sealing, limits: CallLimits | None, children: Children | None = None,
        purpose: Purpose = NO_PURPOSE,
    ) -> Run:  # fmt: skip
        """Open the inputs. Returns the attempt as adapters and actions see it.

        Raises EncryptionError for inputs that this worker cannot open.
        """
        claimed = self.claimed
        self.program = program
        self.sealed = sealing.attempt(program, claimed.inputs, claimed.id)
        inputs = sealing.values(program.signature, "inputs", claimed.inputs, claimed.id)
        self._calls = calls = ModelCalls(
            self.journal,
            self.trail,
            limits=limits,
            sealed=self.sealed,
            parking=self.parking,
            keeps=program.keeps_answers,
            keeps_requests=program.record == "full",
            shows_content=program.keeps_answers and self.sealed is None,
        )
        waits = AttemptWaits(self.journal, self.trail, self.parking, children, depth=claimed.depth, sealed=self.sealed)
        route = program.calls_route if claimed.route is None else CallsRoute.read(claimed.route)
        return Run(
            claimed.id, claimed.attempt, program, inputs, calls, self.trail, self.deadline, self._visible(), waits,
            route, extra=self.extra, traced={} if purpose.trace else None, temperature=purpose.temperature,
            leave_slot=self._leave_slot,
        )  # fmt: skip

    @property
    def deferral(self) -> Deferred | None:
        """Why a limit refused a call of this attempt, if one did: its program is left."""
        return self._calls.deferral if self._calls else None

    def note_score(self, score: float) -> None:
        """Keep what a metric gave the outputs."""
        self.score = score

    async def discard_answers(self) -> None:
        """The attempt fails because of its answers: those blamed are never replayed. The answers that a
        program had that was left are not at fault."""
        if self.program is not None and self.program.keeps_answers and not self.parking.is_leaving:
            await self.journal.discard()

    def cancel(self, requested_at: datetime) -> None:
        """End it, because a cancel was requested; nothing when it is ending already."""
        if not self.work.ending:
            self.trail.record("cancel_requested", requested_at=requested_at.isoformat())
            self.work.end(Ending.CANCELLED)

    def _visible(self) -> Stream | None:
        """The stream, without the outputs that are sealed."""
        if self.stream is None or self.sealed is None:
            return self.stream
        return StreamWithout(self.stream, self.sealed.hidden_outputs)
