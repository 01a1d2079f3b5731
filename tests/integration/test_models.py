"""Programs through the DSPy adapter to a model server, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import dspy
import pytest

from dspex.errors import ModelError, ProgramError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, model_server
from tests.recording import MemoryJournal, a_run
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.adapters.dspy.engine_bridge import run_lm
from workers.adapters.dspy.run_loop import BlocksLoop
from workers.lm.connect.endpoint import Endpoints
from workers.lm.connect.http_transport import MOST_REPLY_BYTES
from workers.lm.engine import RunEngine

__all__ = ["model_server"]

TRIAGE = signature(
    'signature triage "Route a support ticket": :string ticket, :optional(:list(:string)) history -> '
    ':enum("billing", "bug") queue, :string(max_length=160) summary, :confidence_score sure, :list(:string) words'
)
TICKET = {"ticket": "The invoice is wrong."}
SECRET = "sk-proj-0123456789abcdefghij"  # pragma: allowlist secret


@pytest.fixture
async def adapter() -> AsyncIterator[DspyAdapter]:
    made = DspyAdapter()
    yield made
    await made.close()


def program(server: ModelServer, **changes: Any) -> Program:
    settings = {"model": "openai/test", "api_base": server.url, "temperature": 0.0, "max_tokens": 200, **changes}
    return Program("triage", settings.pop("signature", TRIAGE), **settings)


async def failure(adapter: DspyAdapter, of: Program) -> ModelError:
    """How a run fails whose time is up, so that no call is made again: tests/integration/test_retries.py has those."""
    with pytest.raises(ModelError) as caught:
        await adapter.execute(replace(a_run(of, TICKET), deadline=time.monotonic()))
    return caught.value


@pytest.mark.parametrize("module", ["predict", "chain_of_thought"])
@pytest.mark.parametrize("prompt", ["chat", "json", "compact"])
async def test_outputs_are_the_signatures(
    model_server: ModelServer, adapter: DspyAdapter, prompt: str, module: str
) -> None:
    outputs = await adapter.execute(a_run(program(model_server, prompt=prompt, module=module), TICKET))
    assert list(outputs) == ["queue", "summary", "sure", "words"]
    assert TRIAGE.check_outputs(outputs).repairs == ()
    asked = model_server.calls()["requests"][0]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("test", 0.0, 200)


async def test_outputs_are_given_as_the_model_wrote_them(model_server: ModelServer, adapter: DspyAdapter) -> None:
    """A value that breaks the signature is for the signature to refuse: DSPy must not fail the answer or bend it."""
    wrong = {"queue": "sales", "summary": "x" * 500, "sure": "85%", "words": "none"}
    model_server.script(default=Step(outputs=wrong))
    for prompt in ("chat", "json", "compact"):
        assert await adapter.execute(a_run(program(model_server, prompt=prompt), TICKET)) == wrong


async def test_a_compact_prompt_is_short_and_carries_the_constraints(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    journals = {prompt: MemoryJournal() for prompt in ("chat", "json", "compact")}
    for prompt, journal in journals.items():
        await adapter.execute(a_run(program(model_server, prompt=prompt), TICKET, journal))
    tokens = {prompt: journal.answers[0].prompt_tokens for prompt, journal in journals.items()}
    assert tokens["compact"] * 3 < min(tokens["chat"], tokens["json"])
    schema = model_server.calls()["requests"][-1]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["summary"]["maxLength"] == 160
    assert schema["properties"]["queue"]["enum"] == ["billing", "bug"]


@pytest.mark.parametrize("prompt", ["chat", "json", "compact"])
async def test_a_later_attempt_replays_the_answer(model_server: ModelServer, adapter: DspyAdapter, prompt: str) -> None:
    first, of = MemoryJournal(), program(model_server, prompt=prompt, module="chain_of_thought")
    outputs = await adapter.execute(a_run(of, TICKET, first))
    again = first.recall()
    assert await adapter.execute(a_run(of, TICKET, again, attempt=2)) == outputs
    assert again.replayed == 1
    assert model_server.calls()["total"] == 1


async def test_usage_and_request_id_are_recorded(model_server: ModelServer, adapter: DspyAdapter) -> None:
    journal = MemoryJournal()
    await adapter.execute(a_run(program(model_server), TICKET, journal))
    (answer,) = journal.answers
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens > 0
    assert answer.cost_usd is None  # a server named by its address has no list price
    assert answer.request_id is not None
    assert answer.request_id.startswith("req-")
    assert journal.models == ["openai/test"]


async def test_a_hundred_runs_at_once_on_one_loop(model_server: ModelServer, adapter: DspyAdapter) -> None:
    """The server answers nobody until all hundred have asked, and each gets the answer to its own question."""
    model_server.script(default=Step(together=100))
    of = program(model_server, signature=signature(":string question -> :string answer"))
    questions = [{"question": f"question {number}"} for number in range(100)]
    answers = await asyncio.gather(*(adapter.execute(a_run(of, question)) for question in questions))
    assert model_server.calls()["most_at_once"] == 100
    assert len({answer["answer"] for answer in answers}) == 100
    assert list(answers) == await asyncio.gather(*(adapter.execute(a_run(of, question)) for question in questions))


@pytest.mark.parametrize(
    ("step", "code", "retryable"),
    [
        (Step(status=401, error={"code": "invalid_api_key"}), "authentication", False),
        (Step(status=403), "authentication", False),
        (Step(status=402), "billing", False),
        (Step(status=429, error={"code": "insufficient_quota"}), "billing", False),
        (Step(status=429, error={"code": "rate_limit_exceeded"}, retry_after=7), "rate_limited", True),
        (Step(status=400), "invalid_request", False),
        (Step(status=400, error={"code": "context_length_exceeded"}), "context_window_exceeded", False),
        (Step(status=404, error={"code": "model_not_found"}), "unsupported", False),
        (Step(status=500), "provider_unavailable", True),
        (Step(status=503), "provider_unavailable", True),
        (Step(status=504), "model_timeout", True),
        (Step(fault="malformed_json"), "provider_unavailable", True),
        (Step(fault="truncated_body"), "provider_unavailable", True),
        (Step(fault="reset"), "provider_unavailable", True),
        (Step(fault="empty_choices"), "provider_unavailable", True),
        (Step(fault="content_filter"), "content_filtered", False),
        (Step(fault="refusal"), "content_filtered", False),
        (Step(fault="length"), "output_unparseable", True),
        (Step(content="I would rather not say."), "output_unparseable", True),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(getattr(value, "fault", None) or value)[:60],
)
@pytest.mark.parametrize("prompt", ["chat", "compact"])
async def test_every_way_a_provider_fails(
    model_server: ModelServer, adapter: DspyAdapter, step: Step, code: str, retryable: bool, prompt: str
) -> None:
    model_server.script(default=step)
    error = await failure(adapter, program(model_server, prompt=prompt))
    assert (error.code, error.retryable) == (code, retryable)
    assert error.retry_after == step.retry_after
    # Neither DSPy nor the transport asks a second time; a bad answer is sent back once.
    assert model_server.calls()["total"] == (2 if code == "output_unparseable" else 1)
    assert TICKET["ticket"] not in str(error.as_dict())
    model_server.script()
    await adapter.execute(a_run(program(model_server, prompt=prompt), TICKET))  # and the adapter lives on


async def test_a_reply_has_a_largest_size(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(default=Step(content="x" * (MOST_REPLY_BYTES + 1), piece=2**20))
    error = await failure(adapter, program(model_server))
    assert (error.code, error.retryable) == ("model_error", False)
    assert "largest size" in str(error)
    assert model_server.calls()["total"] == 1


async def test_an_unreachable_server_is_named(adapter: DspyAdapter) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await failure(adapter, Program("triage", TRIAGE, model="openai/test", api_base=address))
    assert (error.code, error.retryable) == ("provider_unavailable", True)
    assert address in str(error)
    assert "Connection refused" in str(error)


async def test_an_answer_cut_short_says_so(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(default=Step(fault="length"))
    error = await failure(adapter, program(model_server, prompt="chat"))
    assert "max_tokens=200" in str(error)


async def test_the_key_is_read_at_execution_and_never_shown(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = program(model_server, api_key_env="TRIAGE_KEY")
    missing = await failure(adapter, of)
    assert (missing.code, missing.retryable) == ("authentication", False)
    assert "TRIAGE_KEY" in str(missing)
    monkeypatch.setenv("TRIAGE_KEY", SECRET)
    echo = {"code": "invalid_api_key", "message": f"Incorrect API key provided: {SECRET}"}
    model_server.script(Step(status=401, error=echo))
    refused = await failure(adapter, of)
    assert model_server.calls()["keys"] == {SECRET: 1}
    assert SECRET not in str(refused.as_dict())
    monkeypatch.setenv("TRIAGE_KEY", "rotated")
    await adapter.execute(a_run(of, TICKET))
    assert model_server.calls()["keys"]["rotated"] == 1


async def test_a_setting_of_dspex_is_no_key_of_a_program(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_FLOWER_PASSWORD", SECRET)
    monkeypatch.setenv("DSPEX_BROKER_URL_FILE", "/run/secrets/broker_url")
    for name in ("DSPEX_FLOWER_PASSWORD", "DSPEX_DATABASE_URL", "DSPEX_BROKER_URL_FILE"):
        refused = await failure(adapter, program(model_server, api_key_env=name))
        assert (refused.code, refused.retryable) == ("authentication", False)
        assert SECRET not in str(refused.as_dict())
    assert model_server.calls()["total"] == 0


async def test_a_providers_own_key_is_not_sent_to_an_address(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    await adapter.execute(a_run(program(model_server), TICKET))
    assert SECRET not in model_server.calls()["keys"]


async def test_a_rotated_key_replays_what_the_old_one_paid_for(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, first, second = program(model_server, api_key_env="TRIAGE_KEY"), MemoryJournal(), MemoryJournal()
    monkeypatch.setenv("TRIAGE_KEY", "old")
    await adapter.execute(a_run(of, TICKET, first))
    monkeypatch.setenv("TRIAGE_KEY", "new")
    await adapter.execute(a_run(of, TICKET, second))
    assert first.hashes == second.hashes


async def test_the_local_model_is_asked_where_it_is_served(model_server: ModelServer) -> None:
    async def served_at() -> str:
        return model_server.api_base

    adapter, journal = DspyAdapter(local_model_url=served_at), MemoryJournal()
    await adapter.execute(a_run(Program("triage", TRIAGE, model="smollm2"), TICKET, journal))
    assert [answer.cost_usd for answer in journal.answers] == [0.0], "no provider charges for it"
    asked = model_server.calls()["requests"][0]
    assert asked["model"] == "smollm2"
    assert asked["response_format"]["type"] == "json_schema"
    await adapter.close()


async def test_without_a_local_model_the_error_names_how_to_get_one(
    adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DSPEX_LOCAL_MODEL_URL", raising=False)
    error = await failure(adapter, Program("triage", TRIAGE, model="smollm2"))
    assert error.code == "provider_unavailable"
    assert "DSPEX_LOCAL_MODEL_URL" in str(error)


async def test_settings_that_the_model_cannot_take(adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    error = await failure(adapter, Program("triage", TRIAGE, model="openai/gpt-5", temperature=0.7))
    assert (error.code, error.retryable) == ("invalid_request", False)


async def test_a_provider_without_a_key(adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    of = Program("triage", TRIAGE, model="openai/gpt-4o-mini")
    await adapter.prepare(of)
    error = await failure(adapter, of)
    assert (error.code, error.retryable) == ("authentication", False)
    assert "OPENAI_API_KEY" in str(error)


async def test_a_model_string_that_leads_nowhere(adapter: DspyAdapter) -> None:
    error = await failure(adapter, Program("triage", TRIAGE, model="nobody/nothing"))
    assert (error.code, error.retryable) == ("invalid_request", False)


async def test_examples_come_from_the_state(model_server: ModelServer, adapter: DspyAdapter) -> None:
    demo = {"ticket": "It crashes.", "queue": "bug", "summary": "A crash.", "sure": 0.9, "words": ["crash"]}
    for prompt in ("chat", "json", "compact"):
        await adapter.execute(a_run(program(model_server, prompt=prompt, state={"demos": [demo]}), TICKET))
        roles = [message["role"] for message in model_server.calls()["requests"][-1]["messages"]]
        assert roles == ["system", "user", "assistant", "user"]


async def test_a_state_that_does_not_fit_is_refused_before_any_run(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    with pytest.raises(ProgramError, match="customer"):
        await adapter.prepare(program(model_server, state={"demos": [{"customer": "Smith", "queue": "bug"}]}))


async def test_a_module_in_a_thread_is_answered_on_the_loop(model_server: ModelServer) -> None:
    endpoints, journal = Endpoints(lambda: ""), MemoryJournal()
    run = a_run(program(model_server), TICKET, journal)
    predict = dspy.Predict("question -> answer")

    def ask(lm: dspy.LM) -> Any:
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter(), disable_history=True):
            return predict(question="in a thread")

    with run_lm(RunEngine(run, await endpoints.of(run.program))) as lm:
        assert (await asyncio.to_thread(ask, lm)).answer
        assert len(journal.answers) == 1
        with pytest.raises(BlocksLoop):
            ask(lm)
    with pytest.raises(asyncio.CancelledError):  # a thread that outlives its run asks, and pays for, nothing more
        await asyncio.to_thread(ask, lm)
    assert model_server.calls()["total"] == 1
    await endpoints.aclose()


def test_litellm_is_never_loaded_and_no_price_list_fetched(model_server: ModelServer) -> None:
    """In a process of its own: what other tests load does not count."""
    script = f"""
        import asyncio, sys
        import dspy
        from dspex.program.program import Program
        from tests.recording import a_run
        from workers.adapters.dspy.dspy_adapter import DspyAdapter

        async def main():
            adapter = DspyAdapter()
            for prompt in ("chat", "json", "compact"):
                program = Program("p", ":string question -> :string answer", model="openai/gpt-4o-mini",
                                  api_base={model_server.url!r}, prompt=prompt)
                await adapter.prepare(program)
                await adapter.execute(a_run(program, {{"question": "?"}}))
            await adapter.close()

        asyncio.run(main())
        from dspy.clients import model_metadata
        assert model_metadata.source_info()["source"] == "local", model_metadata.source_info()
        heavy = {{"litellm", "celery", *(["openai"] if dspy.__version__ != "3.4.0" else [])}}  # 3.4.0 loads it itself
        assert not [name for name in sys.modules if name.split(".")[0] in heavy]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
