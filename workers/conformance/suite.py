"""The checks."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import time
from collections.abc import Mapping
from typing import Any

import pytest

from dspex.errors import DspexError, ValidationError
from dspex.program.adapters import adapters
from workers.adapters.contract import Adapter
from workers.attempt.fallback import BAD_ANSWERS
from workers.attempt.supervision import Ending, Supervised
from workers.conformance.attempts import History, StreamRecord
from workers.conformance.running import (
    connections,
    failure,
    judged,
    others,
    quoted,
    spelled,
    texts,
    under_way,
)
from workers.conformance.under_test import AdapterUnderTest

__all__ = ["AdapterConformance"]

#: How many runs are made at once to see that they keep apart.
RUNS_AT_ONCE = 40


class AdapterConformance(AdapterUnderTest):
    """The checks that every adapter must pass.

    Each check has its own adapter instance, loop and thread, and ``patience_seconds`` to end: an adapter that blocks
    the loop, or never ends, fails.
    """

    # -------------------------------------------------------------------------------------------------- capabilities

    def test_it_is_in_the_registry_and_can_be_loaded(self) -> None:
        info = adapters().get(self.adapter)
        assert info is not None, f"no entry point of the group dspex.adapters brings {self.adapter!r}"
        assert info.name == self.adapter
        assert not info.missing, f"it needs {info.missing}"
        assert info.description.strip(), "its description is empty"

        async def check(adapter: Adapter) -> None:
            for method in ("prepare", "execute", "close"):
                assert inspect.iscoroutinefunction(getattr(adapter, method, None)), f"{method} is no coroutine function"

        self._run(check)

    def test_every_module_it_claims_runs(self) -> None:
        fields = {module: self.fields_for(module) for module in sorted(adapters()[self.adapter].capabilities.modules)}
        for module, own in fields.items():
            if own is not None:
                self._run_once(self.answering(module=module, **own))
        if unseen := [module for module, own in fields.items() if own is None]:
            pytest.skip(f"cannot be run here: {', '.join(unseen)}")

    def test_what_it_is_not_able_to_do_is_refused(self) -> None:
        able = adapters()[self.adapter].capabilities
        wanted: dict[str, Any] = {"module": "telepathy", "module_options": {"telepathy": True}}
        if not able.supports_functions:
            wanted["tools"] = ["package.module:function"]
        if able.calls_models:
            wanted["model"] = None
        for name, value in wanted.items():
            with pytest.raises(ValidationError) as refused:
                self.answering(**{name: value})
            assert any(error.path.startswith(name) for error in refused.value.errors)

    # ------------------------------------------------------------------------------------------ outputs and failures

    def test_outputs_are_the_signatures(self) -> None:
        self._run_once(self.answering())

    def test_a_failure_is_told_in_errors_of_dspex(self) -> None:
        program, code = self._given(self.failing(), "nothing that this adapter asks can fail")

        async def check(adapter: Adapter) -> None:
            history = History(program, self.inputs(0))
            error = await failure(adapter, history.attempt(timeout_seconds=0))
            assert error.code == code, f"code {error.code!r}, not {code!r}: {error}"
            again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own error
            assert again.as_dict() == error.as_dict(), "the error does not survive pickling"
            assert not quoted(history, str(error.as_dict())), "the error quotes an input"

        self._run(check)

    def test_an_answer_that_does_not_fit_is_sent_back_once_at_most(self) -> None:
        program = self._given(self.rambling(), "this adapter's answers always fit")

        async def check(adapter: Adapter) -> None:
            history = History(program, self.inputs(0))
            attempt = history.attempt()
            try:
                outputs = await adapter.execute(attempt.run)
            except DspexError as error:
                failed: DspexError | None = error
            else:
                with pytest.raises(ValidationError):
                    program.signature.check_outputs(outputs)
                failed = None
            if failed is not None:
                assert failed.code in BAD_ANSWERS, f"code {failed.code!r}, not one of {sorted(BAD_ANSWERS)}"
                assert failed.retryable, "a bad answer is no reason to give the execution up"
            repairs = [event for event in attempt.events if event["data"].get("repair")]
            sent = [event for event in repairs if event["kind"] == "lm_call"]
            assert len(sent) <= 1, f"the answer was sent back {len(sent)} times"
            assert len(history.calls) <= 1 + len(sent), "a call was made again without being marked as a repair"
            if sent:
                assert any(e["kind"] == "output_validation" for e in repairs), "what was wrong is not on record"

        self._run(check)

    # ------------------------------------------------------------------------------------- the loop, and ending a run

    def test_the_loop_turns_while_a_model_is_silent(self) -> None:
        program = self._given(self.hanging(), "this adapter never waits")

        async def check(adapter: Adapter) -> None:
            attempt, work = await under_way(adapter, program, self.inputs(0))
            assert not work.done(), "it was over although its model is silent"
            work.cancel()
            await asyncio.wait({work})
            assert attempt.calls.calling.is_set()

        self._run(check)

    def test_cancelling_a_run_ends_it_and_nothing_else(self) -> None:
        program = self._given(self.hanging(), "this adapter never waits")
        lively = self.answering()

        async def check(adapter: Adapter) -> None:
            history = History(program, self.inputs(0))
            _, work = await under_way(adapter, program, self.inputs(0), history)
            work.cancel()
            await asyncio.wait({work})
            assert work.cancelled(), "it went on, or made something else of its cancellation"
            assert not history.calls, "a call that was never answered is in the journal"
            judged(lively, await adapter.execute(History(lively, self.inputs(1)).attempt().run))

        self._run(check)

    def test_a_deadline_ends_a_run(self) -> None:
        program = self._given(self.hanging(), "this adapter never waits")

        async def check(adapter: Adapter) -> None:
            attempt = History(program, self.inputs(0)).attempt()
            work: Supervised[Mapping[str, Any]] = Supervised(adapter.execute(attempt.run), name="conformance")
            await attempt.calls.calling.wait()
            assert await work.outcome(timeout_seconds=0) is Ending.DEADLINE
            assert others() == set(), "it is still at work after its deadline"

        self._run(check)

    def test_many_runs_at_once_keep_apart(self) -> None:
        program = self.answering()

        async def check(adapter: Adapter) -> None:
            histories = [History(program, self.inputs(number)) for number in range(RUNS_AT_ONCE)]
            alone = [await adapter.execute(History(program, h.inputs).attempt().run) for h in histories]
            assert len({repr(outputs) for outputs in alone}) > 1, (
                "answering() answers everything alike: nothing is shown"
            )
            together = await asyncio.gather(*(adapter.execute(h.attempt().run) for h in histories))
            mixed = [n for n, (mine, theirs) in enumerate(zip(alone, together, strict=True)) if mine != theirs]
            assert not mixed, f"runs {mixed} got other outputs than alone"

        self._run(check)

    # ------------------------------------------------------------------------------------------------------ streaming

    def test_what_is_streamed_adds_up_to_the_outputs(self) -> None:
        if not adapters()[self.adapter].capabilities.supports_streaming:
            pytest.skip("it does not claim to stream")
        program = self.answering()

        async def check(adapter: Adapter) -> None:
            plain = await adapter.execute(History(program, self.inputs(0)).attempt().run)
            history, first = History(program, self.inputs(0)), StreamRecord()
            assert await adapter.execute(history.attempt(stream=first).run) == plain, "streaming changes the outputs"
            again = StreamRecord()
            await adapter.execute(history.attempt(stream=again).run)
            for record, when in ((first, "at first"), (again, "in a replay")):
                assert record.fields == plain, f"the fields that were complete {when} are not the outputs"
                assert {n: spelled(text, plain[n]) for n, text in record.texts.items()} == plain, f"texts {when}"

        self._run(check)

    # -------------------------------------------------------------------------------------------- journal and record

    def test_a_later_attempt_replays_what_was_answered(self) -> None:
        program = self.answering()

        async def check(adapter: Adapter) -> None:
            history = History(program, self.inputs(0))
            first = await adapter.execute(history.attempt().run)
            made = len(history.calls)
            assert made or not adapters()[self.adapter].capabilities.calls_models, "its calls are not in the journal"
            again = history.attempt()
            assert await adapter.execute(again.run) == first, "the same answers gave other outputs"
            assert len(history.calls) == made, f"it made {len(history.calls) - made} calls that were paid for already"
            assert again.journal.totals()["replayed_lm_calls"] == made
            assert again.journal.totals()["lm_calls"] == made

        self._run(check)

    def test_nothing_of_a_users_is_on_record(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = "sk-conformance-0123456789"  # noqa: S105 - it opens nothing
        monkeypatch.setenv("DSPEX_CONFORMANCE_KEY", secret)
        program = self.answering(api_key_env="DSPEX_CONFORMANCE_KEY")

        async def check(adapter: Adapter) -> None:
            history = History(program, self.inputs(0))
            attempt = history.attempt()
            outputs = await adapter.execute(attempt.run)
            text = attempt.trail.encode()
            assert not quoted(history, text), "an audit event quotes an input"
            assert not [value for value in texts(outputs) if value in text], "an audit event quotes an output"
            assert secret not in text
            assert all(secret not in call.response for call in history.calls), "the key is in the journal"

        self._run(check)

    # ----------------------------------------------------------------------------------------------- life of an adapter

    def test_preparing_again_changes_nothing(self) -> None:
        program = self.answering()

        async def check(adapter: Adapter) -> None:
            for _ in range(3):
                await adapter.prepare(program)
            first = await adapter.execute(History(program, self.inputs(0)).attempt().run)
            await adapter.prepare(program)
            assert await adapter.execute(History(program, self.inputs(0)).attempt().run) == first

        self._run(check)

    def test_closing_leaves_nothing_behind(self) -> None:
        program = self.answering()

        async def check(adapter: Adapter) -> None:
            await adapter.execute(History(program, self.inputs(0)).attempt().run)
            await adapter.close()
            await asyncio.sleep(0)  # a closed connection leaves the loop in its next turn
            assert others() == set(), "tasks of it go on"
            await adapter.close()

        before = connections()
        self._run(check)
        end = time.monotonic() + self.patience_seconds
        while connections() > before:  # the other side takes its time
            assert time.monotonic() < end, "connections are left open"
            time.sleep(0.01)
