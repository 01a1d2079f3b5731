"""``python -m tests.performance.bench.dspy_evaluate URL ROWS THREADS``: DSPy's own Evaluate on a model, in seconds."""

from __future__ import annotations

import json
import resource
import sys
import time

import dspy

__all__ = ["lm_of"]


def lm_of(url: str) -> dspy.LM:
    return dspy.LM("openai/fake", engine="lm15", api_base=url, api_key="none", cache=False, num_retries=0)


def main() -> None:
    url, rows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    examples = [dspy.Example(question=f"question {n}", answer="?").with_inputs("question") for n in range(rows)]
    options = {} if not threads else {"num_threads": threads}
    evaluate = dspy.Evaluate(devset=examples, metric=lambda row, found: row.answer == found.answer, **options)
    with dspy.context(lm=lm_of(url)):
        began = time.perf_counter()
        evaluate(dspy.Predict("question -> answer"))
        print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
