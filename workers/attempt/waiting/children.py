"""Child executions: what a program submits, and what comes of it.

A child's id depends on its parent and on the call alone. So an attempt that makes the same call again, after a crash,
means the same child.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from dspex.errors import DspexError, ProgramError, ProgramNotFound
from dspex.program.program import Program
from dspex.program.stored_program import StoredProgram
from dspex.sealing.values import Sealing
from dspex.settings import Settings
from dspex.store.audit_chain import encode_events, hash_of_submission
from dspex.store.lifecycle.status import Status
from dspex.submit.prepare import NUMBERS, Preparer, RowOptions, prepare_row
from dspex.submit.size_limits import Bounds
from workers.attempt.waiting.parking import Child

__all__ = ["Children", "child_id"]

#: For so long a program's current version is taken for it: children that are made at once read it once.
CURRENT_SECONDS = 1.0


class Programs(Protocol):
    """Where programs are read from."""

    async def program(self, name: str, version: str) -> StoredProgram | None: ...

    async def current_program(self, name: str) -> StoredProgram | None:
        """The current version of a program."""


class Children:
    """The child executions of a worker's attempts."""

    def __init__(self, programs: Programs, sealing: Sealing, settings: Settings) -> None:
        self._programs = programs
        self._sealing = sealing
        self._preparer = Preparer(Bounds.of(settings), sealing)
        self._most_deep = settings.child_depth
        self._most = settings.children_per_execution
        self._known: dict[tuple[str, str], Program] = {}
        self._reading = asyncio.Lock()
        #: By name, and until when each counts.
        self._current: dict[str, tuple[RowOptions, float]] = {}
        #: The last options, whose children they are for, and what they became.
        self._last: tuple[RowOptions, UUID, RowOptions] | None = None

    async def prepared(
        self,
        name: str,
        inputs: Mapping[str, Any],
        parent_id: UUID,
        hashed: bytes,
        occurrence: int,
        *,
        depth: int,
        count: int,
    ) -> Child:
        """The child that this call means; ``depth`` is how deep it is, ``count`` how many the parent has with it.

        Raises ProgramError ``child_limit``, ProgramNotFound, ValidationError.
        """
        if depth > self._most_deep:
            raise _limit(name, f"it would be {depth} deep, and DSPEX_CHILD_DEPTH is {self._most_deep}")
        if count > self._most:
            raise _limit(name, f"the execution has {self._most} children, which is DSPEX_CHILDREN_PER_EXECUTION")
        options = self._below(await self._options(name), parent_id, depth)
        submission = prepare_row(options, inputs, child_id(parent_id, hashed, occurrence))
        hashed_whole = hash_of_submission(
            submission.program, submission.version, submission.inputs, submission.metadata
        )
        return Child(submission, hashed_whole)

    async def outputs(self, name: str, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs of a child that is over, from its outcome in its parent's journal.

        Raises ProgramError ``child_failed`` or ``child_cancelled``.
        """
        id = UUID(outcome["child"])
        if outcome["status"] != Status.COMPLETED:
            raise _ended(name, id, outcome)
        version = str(outcome["version"])
        program = self._known.get((name, version))
        if program is None:
            stored = await self._programs.program(name, version)
            if stored is None:
                raise ProgramNotFound(f"program {name!r} has no version {version}", program=name, version=version)
            program = self._read(stored)
        result = json.dumps(outcome["result"], ensure_ascii=False)
        return self._sealing.values(program.signature, "outputs", result, id)

    async def _options(self, name: str) -> RowOptions:
        """What all children of the current version of a program share."""
        async with self._reading:
            options, until = self._current.get(name, (None, 0.0))
            if options is None or time.monotonic() > until:
                stored = await self._programs.current_program(name)
                if stored is None:
                    raise ProgramNotFound(f"no program {name!r} is deployed", program=name)
                options = self._preparer.options(self._read(stored))
                self._current[name] = (options, time.monotonic() + CURRENT_SECONDS)
        return options

    def _below(self, options: RowOptions, parent_id: UUID, depth: int) -> RowOptions:
        if self._last is None or self._last[0] is not options or self._last[1] != parent_id:
            self._last = options, parent_id, _below(options, parent_id, depth)
        return self._last[2]

    def _read(self, stored: StoredProgram) -> Program:
        known = self._known.get((stored.name, stored.version))
        if known is None:
            known = self._known[stored.name, stored.version] = stored.read()
        return known


def child_id(parent_id: UUID, hashed: bytes, occurrence: int) -> UUID:
    """A UUIDv7 with the time of the parent: so both are in one partition."""
    digest = hashlib.sha256(parent_id.bytes + hashed + occurrence.to_bytes(4, "big")).digest()
    made = bytearray(parent_id.bytes[:6] + digest[:10])
    made[6] = 0x70 | made[6] & 0x0F
    made[8] = 0x80 | made[8] & 0x3F
    return UUID(bytes=bytes(made))


def _below(options: RowOptions, parent_id: UUID, depth: int) -> RowOptions:
    """The options of the children of an execution: their first audit events name it; their priority is its, too."""
    *others, submitted = json.loads(NUMBERS.join(options.events_around))
    data = {name: value for name, value in submitted["data"].items() if name != "priority"}
    events = encode_events([*others, {**submitted, "data": {**data, "parent": str(parent_id), "depth": depth}}])
    before, _, after = events.partition(NUMBERS)
    return replace(options, events_around=(before, after))


def _limit(name: str, why: str) -> ProgramError:
    return ProgramError(f"no child execution of {name!r} is made: {why}", code="child_limit", program=name)


def _ended(name: str, id: UUID, outcome: Mapping[str, Any]) -> ProgramError:
    if outcome["status"] == Status.CANCELLED:
        return ProgramError(f"child execution {id} of {name!r} was cancelled", code="child_cancelled", child=str(id))
    cause = DspexError.from_dict(outcome["error"] or {})
    return ProgramError(
        f"child execution {id} of {name!r} failed with {cause.code}", code="child_failed", child=str(id),
        cause=cause.code,
    )  # fmt: skip
