"""Whatever way a model writes the values of a signature, they are read as what they are, or sent back."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.answers import read
from tests.performance.signature_seeds import ARCHIVE, seeds
from tests.renderings import Written, is_unmistakable, written

ANSWERS = ARCHIVE.with_name("answer_seeds.zip")
examples = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@examples
@given(written(), st.lists(st.integers(0, 300), max_size=6), st.sampled_from(["retry", "accept"]))
def test_an_answer_is_read_as_what_it_says_or_sent_back(answer: Written, cuts: list[int], on_cut: str) -> None:
    assume(is_unmistakable(answer))
    outcome = read(answer.signature, answer.prompt, answer.answer, is_cut=answer.is_cut, on_cut=on_cut, cuts=cuts)
    if outcome.outputs is None:
        assert not answer.is_plain, "an answer in the form that was asked for was sent back"
    elif answer.is_cut:
        assert on_cut == "accept"
        assert "an answer that was cut off was closed" in outcome.repairs
    else:
        assert json.loads(answer.signature.encode("outputs", outcome.outputs)) == answer.values


def test_what_fuzzing_found_is_read_or_sent_back() -> None:
    fuzzed = test_an_answer_is_read_as_what_it_says_or_sent_back.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    kept = [fuzzed(data) for data in seeds(ANSWERS).values()]
    assert any(kept), "the seeds are not those of this version of Hypothesis: make fuzz-answers fuzz-seeds"
