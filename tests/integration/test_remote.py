"""``dspex.remote``: DSPy's own Evaluate and optimisers on the workers, with what they find as if it were run here."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

import dspex
from dspex.client.client import Client
from tests.model_server import ModelServer, Step, model_server
from workers.adapters.dspy.modules import build_module

__all__ = ["model_server"]

TRAINSET = [dspy.Example(question=f"What is {n} and {n}?", answer=str(2 * n)).with_inputs("question") for n in range(6)]


def program(model_server: ModelServer, name: str, **settings: Any) -> dspex.Program:
    return dspex.Program(
        name, dspex.signature(":string question -> :string answer"), model="openai/test", prompt="chat",
        api_base=model_server.api_base, **settings,
    )  # fmt: skip


def is_fine(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Half of the examples, whatever is answered."""
    return int(example.answer) % 4 == 0 and bool(prediction.answer)


#: What both the server and DSPy's own dummy answer.
ANSWERS = {"predict": {"answer": "42"}, "chain_of_thought": {"reasoning": "So.", "answer": "42"}}


@pytest.mark.parametrize("module", list(ANSWERS))
def test_an_optimiser_finds_the_same_state_as_here(
    shared_client: Client, model_server: ModelServer, module: str
) -> None:
    client, name = shared_client, f"sums_{module}"
    deployed = program(model_server, name, module=module)
    client.deploy(deployed)
    remote = dspex.remote(name, client)
    local = build_module(deployed)
    assert [name for name, _ in remote.named_predictors()] == [name for name, _ in local.named_predictors()]
    assert remote.dump_state() == local.dump_state()

    model_server.script(default=Step(outputs=ANSWERS[module]))
    with dspy.context(lm=DummyLM([ANSWERS[module]] * 50), adapter=dspy.ChatAdapter()):
        here = dspy.BootstrapFewShot(metric=is_fine, max_bootstrapped_demos=2).compile(local, trainset=TRAINSET)
        there = dspy.BootstrapFewShot(metric=is_fine, max_bootstrapped_demos=2).compile(remote, trainset=TRAINSET)
        assert there.dump_state() == here.dump_state()
        evaluate = dspy.Evaluate(devset=TRAINSET, metric=is_fine, num_threads=4, display_progress=False)
        assert evaluate(there).score == evaluate(here).score == 50.0
        assert there(question="?").toDict() == here(question="?").toDict()
    tried = [each for each in client.versions(name, candidates=True) if each.candidate]
    assert tried, "states that were tried are versions beside the current one"
    assert client.versions(name)[-1].version == deployed.version
    assert client.submit(name, {"question": "?"}).version == deployed.version


async def test_a_remote_module_is_awaited_and_refuses_wrong_inputs(
    shared_client: Client, model_server: ModelServer
) -> None:
    shared_client.deploy(program(model_server, "sums"))
    remote = dspex.remote("sums", shared_client)
    with dspy.context(trace=[]):
        prediction = await remote.acall(question="What is 1 and 1?")
        assert prediction.answer.startswith("text ")
    with pytest.raises(dspex.ValidationError):
        remote(query="?")
    copy = remote.deepcopy()
    copy.demos = [{"question": "1", "answer": "1"}]
    assert copy(question="?").answer != remote(question="?").answer, "the copy has a state of its own"
