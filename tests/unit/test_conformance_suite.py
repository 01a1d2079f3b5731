"""Each check of the conformance suite passes a good adapter and fails one that is broken in its way."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from dspex.errors import DspexError, ModelError, ProgramError, ValidationError
from dspex.program import adapters
from dspex.program.adapters import AdapterInfo, Capabilities
from dspex.program.program import Program
from dspex.signatures import signature
from workers.adapters.contract import Answer, Run
from workers.conformance import AdapterConformance

released = threading.Event()


class Good:
    """Shouts the question back, as a model at the ``model`` of that name would."""

    async def prepare(self, program: Program) -> None:
        """Nothing to load."""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        question = run.inputs["question"]
        request = hashlib.sha256(question.encode()).hexdigest()
        response = await run.journal.perform(request, "shout", lambda: self.ask(run, question))
        self.tell(run, response["text"])
        return self.read(run, response["text"])

    def tell(self, run: Run, text: str) -> None:
        if run.stream is not None:
            answer = run.stream.answer()
            for letter in text:
                answer.text("answer", letter)
            answer.field("answer", text)

    async def ask(self, run: Run, question: str) -> Answer:
        match run.program.model:
            case "own/silent":
                await asyncio.Event().wait()
            case "own/refusing":
                raise ModelError("refused", code="authentication")
            case "own/rambling":
                return Answer({"text": ""})
        await asyncio.sleep(0)
        return Answer({"text": question.upper()})

    def read(self, run: Run, text: str) -> Mapping[str, Any]:
        if not text:
            raise ModelError("no answer", code="output_unparseable", retryable=True)
        return {"answer": text}

    async def close(self) -> None:
        """Nothing to release."""


class NotPreparedTwice(Good):
    prepared = False

    async def prepare(self, program: Program) -> None:
        if self.prepared:
            raise ProgramError("prepared already")
        self.prepared = True


class Fewer(Good):
    async def prepare(self, program: Program) -> None:
        if program.module != "predict":
            raise ProgramError(f"no {program.module} here")


class Synchronous(Good):
    def close(self) -> None:  # type: ignore[override]
        """Not a coroutine function."""


class OtherFields(Good):
    def read(self, run: Run, text: str) -> Mapping[str, Any]:
        return {"answer": text, "thoughts": "none"} if text else super().read(run, text)


class ForeignErrors(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        try:
            return await super().execute(run)
        except DspexError as error:
            raise RuntimeError(str(error)) from error


class QuotingErrors(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        try:
            return await super().execute(run)
        except DspexError as error:
            raise ModelError(f"no answer to {run.inputs['question']}", code=error.code) from error


class Insistent(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        question = run.inputs["question"]
        for number in range(3):
            request = hashlib.sha256(f"{number}{question}".encode()).hexdigest()
            response = await run.journal.perform(request, "shout", lambda: self.ask(run, question))
            if response["text"]:
                break
        return self.read(run, response["text"])


class GivesUp(Good):
    def read(self, run: Run, text: str) -> Mapping[str, Any]:
        if not text:
            raise ValidationError("no answer", code="output_invalid", retryable=False)
        return super().read(run, text)


class Blocking(Good):
    async def ask(self, run: Run, question: str) -> Answer:
        if run.program.model == "own/silent":
            released.wait()
        return await super().ask(run, question)


class GoesOn(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        work = asyncio.ensure_future(super().execute(run))
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                finished, _ = await asyncio.wait([work], timeout=0.02)
                if finished:
                    return work.result()
        work.cancel()
        raise asyncio.CancelledError


class LeftBehind(Good):
    """Its cancellation does not reach the task that does the work."""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        return await asyncio.shield(super().execute(run))


class Mixing(Good):
    question = ""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        self.question = run.inputs["question"]
        await super().execute(run)
        return {"answer": self.question.upper()}


class PaysTwice(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        question = f"{run.inputs['question']} {run.attempt}"
        request = hashlib.sha256(question.encode()).hexdigest()
        response = await run.journal.perform(request, "shout", lambda: self.ask(run, run.inputs["question"]))
        return self.read(run, response["text"])


class Unjournaled(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        return self.read(run, (await self.ask(run, run.inputs["question"])).response["text"])


class Telltale(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        run.trail.record("adapter_note", asked=run.inputs["question"])
        return await super().execute(run)


class StillAtWork(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        self._task = asyncio.ensure_future(asyncio.Event().wait())
        return await super().execute(run)


class StillConnected(Good):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            left_open.append(socket.create_connection(server.getsockname()))
            left_open.append(server.accept()[0])
        return await super().execute(run)


class Stuttering(Good):
    def tell(self, run: Run, text: str) -> None:
        if run.stream is not None:
            answer = run.stream.answer()
            answer.text("answer", text[:1])
            answer.text("answer", text)
            answer.field("answer", text)


class TellsNothing(Good):
    def tell(self, run: Run, text: str) -> None:
        """Not a word."""


left_open: list[socket.socket] = []
BROKEN: list[tuple[type[Good], str, str]] = [
    (Synchronous, "test_it_is_in_the_registry_and_can_be_loaded", "is no coroutine function"),
    (Fewer, "test_every_module_it_claims_runs", "no chain_of_thought here"),
    (OtherFields, "test_outputs_are_the_signatures", "fields that the signature does not have"),
    (ForeignErrors, "test_a_failure_is_told_in_errors_of_dspex", "RuntimeError is not an error of dspex"),
    (QuotingErrors, "test_a_failure_is_told_in_errors_of_dspex", "the error quotes an input"),
    (Insistent, "test_an_answer_that_does_not_fit_is_sent_back_once_at_most", "without being marked as a repair"),
    (GivesUp, "test_an_answer_that_does_not_fit_is_sent_back_once_at_most", "no reason to give the execution up"),
    (Blocking, "test_the_loop_turns_while_a_model_is_silent", "blocks the loop"),
    (GoesOn, "test_cancelling_a_run_ends_it_and_nothing_else", "ignores its cancellation"),
    (LeftBehind, "test_a_deadline_ends_a_run", "still at work after its deadline"),
    (Mixing, "test_many_runs_at_once_keep_apart", "other outputs than alone"),
    (PaysTwice, "test_a_later_attempt_replays_what_was_answered", "paid for already"),
    (Unjournaled, "test_a_later_attempt_replays_what_was_answered", "not in the journal"),
    (Telltale, "test_nothing_of_a_users_is_on_record", "an audit event quotes an input"),
    (Stuttering, "test_what_is_streamed_adds_up_to_the_outputs", "texts at first"),
    (TellsNothing, "test_what_is_streamed_adds_up_to_the_outputs", "complete at first"),
    (NotPreparedTwice, "test_preparing_again_changes_nothing", "prepared already"),
    (StillAtWork, "test_closing_leaves_nothing_behind", "tasks of it go on"),
    (StillConnected, "test_closing_leaves_nothing_behind", "connections are left open"),
]


class Shouting(AdapterConformance):
    """The suite for any of these adapters."""

    adapter = "shout"

    def answering(self, **fields: Any) -> Program:
        return Program("qa", signature("question -> answer"), adapter="shout", **{"model": "own/loud", **fields})

    def hanging(self) -> Program:
        return self.answering(model="own/silent")

    def failing(self) -> tuple[Program, str]:
        return self.answering(model="own/refusing"), "authentication"

    def rambling(self) -> Program:
        return self.answering(model="own/rambling")


def known(implementation: type[Good]) -> Mapping[str, AdapterInfo]:
    able = Capabilities(modules=frozenset({"predict", "chain_of_thought"}), supports_streaming=True)
    return {"shout": AdapterInfo("shout", "Shouts", f"{__name__}:{implementation.__name__}", able)}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Good]], None]]:
    def install(implementation: type[Good]) -> None:
        monkeypatch.setattr(adapters, "BUILT_IN", tuple(known(implementation).values()))
        adapters.look_again()

    yield install
    monkeypatch.undo()
    adapters.look_again()


class TestGood(Shouting):
    @pytest.fixture(autouse=True)
    def _installed(self, install: Callable[[type[Good]], None]) -> None:
        install(Good)


class Impatient(Shouting):
    patience_seconds: ClassVar[float] = 1.0


@pytest.mark.parametrize(("broken", "check", "said"), BROKEN, ids=[broken.__name__ for broken, _, _ in BROKEN])
def test_a_broken_adapter_fails(
    install: Callable[[type[Good]], None], monkeypatch: pytest.MonkeyPatch, broken: type[Good], check: str, said: str
) -> None:
    install(broken)
    method = getattr(Impatient(), check)
    released.clear()
    try:
        with pytest.raises((AssertionError, DspexError), match=said):
            method(monkeypatch) if "monkeypatch" in method.__code__.co_varnames else method()
    finally:
        released.set()
        while left_open:
            left_open.pop().close()


def test_every_check_is_seen_to_fail() -> None:
    checks = {name for name in dir(AdapterConformance) if name.startswith("test_")}
    assert {check for _, check, _ in BROKEN} | {"test_what_it_is_not_able_to_do_is_refused"} == checks
