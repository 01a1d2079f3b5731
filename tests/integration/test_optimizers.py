"""DSPy's optimisers through ``dspex.remote`` find what they find here, state for state and request for request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import dspy
import numpy as np
import pytest

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import client_with_worker
from tests.model_server import ModelServer
from workers.adapters.dspy.modules import build_module

EXAMPLES = [dspy.Example(question=f"What is {n} and {n}?", answer=str(2 * n)).with_inputs("question") for n in range(8)]
#: Optimisers that ask in threads: answers come in any order.
THREADS = {"num_threads": 4}


class Desk(NamedTuple):
    """A deployed program, and where to ask its model."""

    client: Client
    program: dspex.Program
    server: ModelServer


@pytest.fixture(scope="module")
def desk(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    with client_with_worker(servers, tmp_path_factory, OPENAI_API_KEY="none") as client, ModelServer() as server:
        program = dspex.Program(
            "sums", dspex.signature(":string question -> :string answer", description="Add the numbers."),
            module="chain_of_thought", model="openai/test", prompt="chat", api_base=server.api_base,
        )  # fmt: skip
        client.deploy(program)
        yield Desk(client, program, server)


def graded(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> float:
    """Half of the answers are right, as if by chance, and always the same ones."""
    digest = hashlib.sha256(f"{example.question} {prediction.answer}".encode()).digest()
    return float(digest[0] % 2)


def bootstrap(student: Any) -> Any:
    return dspy.BootstrapFewShot(metric=graded, max_bootstrapped_demos=2, max_rounds=2).compile(
        student, trainset=EXAMPLES
    )


def random_search(student: Any) -> Any:
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=graded, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=2, **THREADS
    )
    return search.compile(student, trainset=EXAMPLES)


def mipro(student: Any) -> Any:
    optimizer = dspy.MIPROv2(
        metric=graded, auto=None, num_candidates=3, max_bootstrapped_demos=1, max_labeled_demos=1, seed=3, **THREADS
    )
    return optimizer.compile(student, trainset=EXAMPLES[:4], valset=EXAMPLES[4:], num_trials=4, minibatch=False)


def simba(student: Any) -> Any:
    optimizer = dspy.SIMBA(metric=graded, bsize=4, num_candidates=2, max_steps=2, max_demos=2, **THREADS)
    return optimizer.compile(student, trainset=EXAMPLES, seed=5)


def copro(student: Any) -> Any:
    optimizer = dspy.COPRO(metric=graded, breadth=3, depth=2)
    return optimizer.compile(student, trainset=EXAMPLES[:4], eval_kwargs={**THREADS, "display_progress": False})


def gepa(student: Any) -> Any:
    optimizer = dspy.GEPA(metric=graded, max_metric_calls=40, reflection_lm=dspy.settings.lm, seed=2, **THREADS)
    return optimizer.compile(student, trainset=EXAMPLES[:4], valset=EXAMPLES[4:])


def knn(student: Any) -> Any:
    def vectors(texts: list[str]) -> Any:
        return np.array([[len(text), text.count("3"), text.count("5")] for text in texts])

    found = dspy.KNNFewShot(
        k=2,
        trainset=EXAMPLES,
        vectorizer=dspy.Embedder(vectors, caching=False),
        metric=graded,
        max_bootstrapped_demos=2,
    )
    return found.compile(student)


@pytest.mark.filterwarnings("ignore:Argument ``multivariate``")  # of Optuna, for what MIPROv2 passes
@pytest.mark.parametrize("optimize", [bootstrap, random_search, mipro, simba, copro, gepa, knn])
def test_an_optimiser_finds_what_it_finds_here(optimize: Callable[[Any], Any], desk: Desk) -> None:
    lm = dspy.LM(
        "openai/test", api_base=desk.server.api_base, api_key="none", cache=False, temperature=None, max_tokens=None
    )
    with closing(lm), dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        desk.server.forget()
        here = optimize(build_module(desk.program))
        asked_here = desk.server.calls()["by_hash"]
        desk.server.forget()
        there = optimize(dspex.remote("sums", desk.client))
        asked_there = desk.server.calls()["by_hash"]
        assert there.dump_state() == here.dump_state()
        assert asked_there == asked_here
        assert there(question="What is 3 and 5?").toDict() == here(question="What is 3 and 5?").toDict()
