"""Fuzz the reader of answers: values of random signatures, in every form, are read as what they are or sent back.

Needs atheris (``uv pip install atheris``). Run it with

    python -m tests.performance.fuzz_answers -max_total_time=600 -max_len=4000

Inputs that reach new code are kept in ``build/fuzz/answers``, and the next run begins with them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["workers.answers", "dspex.signatures.values.loose_json"]):
    from tests.unit.test_answer_renderings import test_an_answer_is_read_as_what_it_says_or_sent_back as fuzzed

#: Not a temporary directory: libFuzzer ends the process without Python's clean-up.
_FINDS = Path("build/fuzz/answers")


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's own arguments say."""
    _FINDS.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(_FINDS), *sys.argv[1:]], fuzzed.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
    atheris.Fuzz()


if __name__ == "__main__":
    main()
