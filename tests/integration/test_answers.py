"""Answers on their way from a provider through an adapter: what is used, what is sent back, and what followers see."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.answers import Followed, sections
from tests.both_adapters import adapters
from tests.model_server import ModelServer, Step, model_server
from tests.raw_replies import chat
from tests.recording import MemoryJournal, a_run
from workers.adapters.contract import Adapter, Run
from workers.attempt.fallback import may_fall_back

__all__ = ["adapters", "model_server"]

QA = signature("signature qa: :string question -> :string answer")
ASKED = {"question": "What is the capital of France?"}
WAYS = [("dspy", "chat"), ("dspy", "json"), ("direct", None)]
case = pytest.mark.case


def program(server: ModelServer, adapter: str, prompt: str | None, **changes: Any) -> Program:
    given: dict[str, Any] = {"signature": QA, "model": "openai/test", "api_base": server.url, **changes}
    return Program("qa", given.pop("signature"), adapter=adapter, prompt=prompt, **given)


def sent(run: Run) -> tuple[int, int]:
    """How many calls were made, and how many of them were repairs."""
    assert isinstance(run.journal, MemoryJournal)
    return len(run.journal.answers), run.journal.repairs


def written(prompt: str | None, text: str) -> str:
    return sections(answer=text) if prompt == "chat" else f'{{"answer": "{text}"}}'


@case("own-01")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
@pytest.mark.parametrize("bad_first", [False, True])
async def test_outputs_with_defaults_that_are_lists_and_maps(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, bad_first: bool
) -> None:
    made = signature('signature d: :string question -> :string answer, :list(:string) tags = [], :map more = {"a": 1}')
    good = {"answer": "x", "tags": ["a"], "more": {"b": []}}
    model_server.script(*([Step(content="Sorry.")] if bad_first else []), default=Step(outputs=good))
    run = a_run(program(model_server, adapter, prompt, signature=made), ASKED)
    assert await adapters[adapter].execute(run) == good
    assert sent(run) == ((2, 1) if bad_first else (1, 0))


@case("lm-16")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
async def test_half_a_character_is_sent_back(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None
) -> None:
    model_server.script(Step(content=written(prompt, "x \ud835 y")), default=Step(outputs={"answer": "x"}))
    run = a_run(program(model_server, adapter, prompt), ASKED)
    assert await adapters[adapter].execute(run) == {"answer": "x"}
    assert sent(run) == (2, 1)
    assert "\ufffd" in str(model_server.calls()["requests"][-1]["messages"][-2]["content"])


@case("lm-16")
@pytest.mark.parametrize("declared", [True, False])
async def test_half_a_character_in_a_step_is_replaced(
    model_server: ModelServer, adapters: dict[str, Adapter], declared: bool
) -> None:
    made = signature("signature r: :string question -> :string reasoning, :string answer") if declared else QA
    steps = Step(content=sections(reasoning="\ud835", answer="\0x")), Step(outputs={"reasoning": "y", "answer": "\0x"})
    model_server.script(steps[0], default=steps[1])
    run = a_run(program(model_server, "dspy", "chat", signature=made, module="chain_of_thought"), ASKED)
    outputs = await adapters["dspy"].execute(run)
    assert outputs["answer"] == "\0x"
    assert sent(run) == ((2, 1) if declared else (1, 0))


@case("lm-10")
@case("lm-11")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
async def test_an_answer_that_was_cut_off_is_asked_for_again_with_more_tokens(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None
) -> None:
    cut = Step(content=written(prompt, "The treaty was"), fault="length")
    model_server.script(cut, default=Step(outputs={"answer": "The treaty was signed."}))
    run = a_run(program(model_server, adapter, prompt, max_tokens=20), ASKED)
    assert await adapters[adapter].execute(run) == {"answer": "The treaty was signed."}
    assert sent(run) == (2, 1)
    requests = model_server.calls()["requests"]
    assert [request["max_tokens"] for request in requests] == [20, 40]
    assert "It was cut off" in str(requests[-1]["messages"][-1]["content"])


@case("lm-10")
@case("lm-11")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
async def test_an_answer_that_was_cut_off_is_accepted_where_the_program_says_so(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None
) -> None:
    model_server.script(default=Step(content=written(prompt, "The treaty was"), fault="length"))
    run = a_run(program(model_server, adapter, prompt, on_cut="accept"), ASKED)
    outputs = await adapters[adapter].execute(run)
    assert "The treaty was".startswith(outputs["answer"])  # the server cuts the text in the middle
    assert outputs["answer"]
    assert sent(run) == (1, 0)
    assert ("", "an answer that was cut off was closed") in run.repairs


@case("lm-13")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
@pytest.mark.parametrize(
    "message",
    [{"reasoning_content": "Hm."}, {"reasoning": "Hm."}, {"content": "<think>Hm."}],
    ids=lambda m: next(iter(m)),
)
async def test_reasoning_that_takes_all_tokens_is_repaired_once(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, message: dict[str, str]
) -> None:
    reply = chat(None, "length")
    reply["choices"][0]["message"] |= message
    model_server.script(default=Step(body=json.dumps(reply)))
    run = a_run(program(model_server, adapter, prompt, max_tokens=20), ASKED)
    with pytest.raises(ModelError, match="the answer was cut off at max_tokens=20") as failed:
        await adapters[adapter].execute(run)
    assert sent(run) == (2, 1)
    assert [request["max_tokens"] for request in model_server.calls()["requests"]] == [20, 40]
    assert failed.value.code == "output_unparseable"
    assert not failed.value.retryable  # no attempt pays for the same again
    assert may_fall_back(failed.value)


@case("lm-12")
@pytest.mark.parametrize("word", [None, "", "banana", 7])
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
async def test_an_answer_whose_end_is_unknown_is_used_if_its_form_is_complete(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, word: Any
) -> None:
    whole = written(prompt, "The treaty was signed.")
    cut = "[[ ## answer ## ]]\nThe treaty was" if prompt == "chat" else '{"answer": "The treaty was'
    half, good = (Step(body=json.dumps(chat(text, word))) for text in (cut, whole))
    model_server.script(half, default=good)
    run = a_run(program(model_server, adapter, prompt), ASKED)
    assert await adapters[adapter].execute(run) == {"answer": "The treaty was signed."}
    assert sent(run) == (2, 1)
    assert isinstance(run.journal, MemoryJournal)
    again = replace(run, journal=run.journal.recall())
    assert await adapters[adapter].execute(again) == {"answer": "The treaty was signed."}


@case("lm-14")
@case("http-09")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
@pytest.mark.parametrize("text", ["", "   ", "<think>It is Paris."])
async def test_an_answer_without_text_is_no_answer(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, text: str
) -> None:
    made = signature("signature maybe: :string question -> :optional(:string) answer")
    model_server.script(default=Step(content=text))
    run = a_run(program(model_server, adapter, prompt, signature=made), ASKED)
    with pytest.raises(ModelError, match="and no answer" if text.strip() else "answered nothing") as failed:
        await adapters[adapter].execute(run)
    assert failed.value.code == "output_unparseable"
    assert sent(run) == (2, 1)


@pytest.mark.parametrize(
    ("text", "why", "missing"),
    [
        ("", "answered nothing", ["answer", "score"]),
        ('{"answer": "Paris"}', "no value for score", ["score"]),
        ("<answer>Paris</answer>", "no value for answer, score", ["answer", "score"]),
        ("<score>7</score><answer>Paris", "no value for answer, score", ["answer", "score"]),
        ("<answer>Paris</answer><score>high</score>", "no value for answer, score", ["answer", "score"]),
    ],
)
async def test_an_answer_that_an_adapter_of_dspy_cannot_read(
    model_server: ModelServer, adapters: dict[str, Adapter], text: str, why: str, missing: list[str]
) -> None:
    """Its prompt of XML is followed by another one, for JSON, whose answer is the one that counts."""
    made = signature("signature q: :string question -> :string answer, :integer score")
    model_server.script(default=Step(content=text))
    run = a_run(program(model_server, "dspy", "xml", signature=made), ASKED)
    with pytest.raises(ModelError, match=why) as failed:
        await adapters["dspy"].execute(run)
    assert (failed.value.code, failed.value.details["missing"]) == ("output_unparseable", missing)
    assert "Paris" not in str(failed.value)


class FollowedRun(Followed):
    def answer(self) -> Followed:
        return self.begin()


@case("lm-01")
@case("lm-02")
@pytest.mark.parametrize(("adapter", "prompt"), WAYS)
@pytest.mark.parametrize("replayed", [False, True])
async def test_what_a_follower_sees_is_what_is_used(
    model_server: ModelServer, adapters: dict[str, Adapter], adapter: str, prompt: str | None, replayed: bool
) -> None:
    draft, final = written(prompt, "Lyon"), written(prompt, "Paris")
    model_server.script(default=Step(content=f"{draft}\nNo.\n</think>\n{final}"))
    followed = FollowedRun()
    run = replace(a_run(program(model_server, adapter, prompt), ASKED), stream=followed)
    if replayed:
        first = a_run(run.program, ASKED)
        await adapters[adapter].execute(first)
        assert isinstance(first.journal, MemoryJournal)
        run = replace(run, journal=first.journal.recall())
    assert await adapters[adapter].execute(run) == {"answer": "Paris"}
    assert (followed.texts, followed.values) == ({"answer": "Paris"}, {"answer": "Paris"})
    assert ("", "reasoning was set aside") in run.repairs
