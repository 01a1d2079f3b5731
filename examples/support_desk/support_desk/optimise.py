"""Optimise the classifier, and save its state to triage.json: ``python -m support_desk.optimise``.

The module that is optimised is the one that a worker runs, with the prompt that it uses. Needs the local model: it is
started if `dspex up` does not serve it already.
"""

from __future__ import annotations

import json
from pathlib import Path

import dspy
from dspy.lm15 import AccessPolicy, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider

from dspex import Program
from dspex.embedded.bundled_model import ensure_local_model
from dspex.settings import Settings
from support_desk.programs import triage
from support_desk.tickets import HELD_OUT, TRAINING
from workers.adapters.dspy.compact_prompt import CompactAdapter
from workers.adapters.dspy.modules import build_module

STATE = Path(__file__).parent / "triage.json"


def examples(tickets: list[tuple[str, str]]) -> list[dspy.Example]:
    return [dspy.Example(ticket=ticket, queue=queue).with_inputs("ticket") for ticket, queue in tickets]


def is_right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.queue == prediction.queue)


def main() -> None:
    url = ensure_local_model(Settings.load().home)
    access = AccessPolicy(provider="local", env_keys=(), base_url=url)
    provider = ProviderDefinition.chat(access, compat=OpenAIChatCompat(), placeholder_key="none")
    register_provider(provider, supports=ModelSupport(response_schema=True))
    lm = dspy.LM("local/smollm2", engine="lm15", api_base=url, temperature=0.0, max_tokens=20, cache=False)
    dspy.configure(lm=lm, adapter=CompactAdapter())
    plain = build_module(Program(**{"name": triage.name, "signature": triage.signature, "model": triage.model}))
    evaluate = dspy.Evaluate(devset=examples(HELD_OUT), metric=is_right, num_threads=1, display_progress=False)
    print(f"as it is: {evaluate(plain).score} % of the held-out tickets")
    optimiser = dspy.BootstrapFewShotWithRandomSearch(
        metric=is_right, max_bootstrapped_demos=6, max_labeled_demos=9, num_candidate_programs=4, num_threads=1
    )
    optimised = optimiser.compile(plain, trainset=examples(TRAINING))
    print(f"optimised: {evaluate(optimised).score} % of the held-out tickets")
    STATE.write_text(json.dumps(optimised.dump_state(), indent=2) + "\n")


if __name__ == "__main__":
    main()
