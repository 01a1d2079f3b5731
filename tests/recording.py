"""A journal and a trail that only remember: what an adapter needs to run without a worker around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dspex.program.program import Program
from workers.adapters.contract import Answer, BatchAim, Estimate, Run, ToolResult, Tries, once

__all__ = ["MemoryJournal", "MemoryTrail", "a_run", "until"]


class MemoryJournal:
    """Keeps each answer by its request; ``recall`` makes a journal that replays them, as a later attempt's does."""

    def __init__(self, known: Mapping[str, list[dict[str, Any]]] | None = None) -> None:
        self.known = {digest: list(answers) for digest, answers in (known or {}).items()}
        self.tools: dict[str, list[Any]] = {}
        self.answers: list[Answer] = []
        self.models: list[str] = []
        self.hashes: list[str] = []
        self.replayed = 0
        self.repairs = 0
        self.rejected: list[str] = []

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        tries: Tries = once,
        repair: bool = False,
        estimate: Callable[[], Estimate] | None = None,
        request: Mapping[str, Any] | None = None,
        batch: BatchAim | None = None,
    ) -> dict[str, Any]:
        self.repairs += repair
        self.hashes.append(request_hash)
        self.models.append(model)
        if waiting := self.known.get(request_hash):
            self.replayed += 1
            return waiting.pop(0)
        answer = await tries(call)
        self.answers.append(answer)
        return answer.response

    def tool_result(self, digest: str, tool: str) -> ToolResult | None:
        waiting = self.tools.get(digest)
        return ToolResult(waiting.pop(0)) if waiting else None

    async def keep_tool_result(
        self,
        digest: str,
        tool: str,
        value: Any,
        began_at: datetime,
        arguments: Mapping[str, Any] | None = None,
        *,
        error: Mapping[str, str] | None = None,
        always: bool = False,
    ) -> None:
        """No later attempt of a test asks for it."""

    def show_tool(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Nothing is traced."""

    def rewind(self) -> None:
        for digest, answer in zip(self.hashes, self.answers, strict=True):
            self.known.setdefault(digest, []).append(answer.response)

    def reject(self, request_hashes: Collection[str]) -> None:
        self.rejected += request_hashes

    def recall(self) -> MemoryJournal:
        known: dict[str, list[dict[str, Any]]] = {}
        for digest, answer in zip(self.hashes, self.answers, strict=True):
            known.setdefault(digest, []).append(answer.response)
        return MemoryJournal(known)


class MemoryTrail:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        self.events.append((kind, data))


def a_run(program: Program, inputs: Mapping[str, Any], journal: MemoryJournal | None = None, attempt: int = 1) -> Run:
    """An attempt at a program with validated inputs."""
    validated = program.signature.validate_inputs(inputs)
    return Run(uuid4(), attempt, program, validated, journal or MemoryJournal(), MemoryTrail())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; the test's own timeout ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what is waited for is in another process or thread
        await asyncio.sleep(0.005)
