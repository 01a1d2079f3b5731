"""Fuzz the reader of answers: values of random signatures, in every form, are read as what they are or sent back.

Needs atheris (``uv pip install atheris``). Run it with

    python -m tests.performance.fuzz_answers -max_total_time=600 -max_len=4000

Inputs that reach new code are written to ``build/fuzz/answers``; ``make fuzz-seeds`` adds them to the seeds, with which
every run begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["workers.answers", "dspex.signatures.values.loose_json"]):
    from tests.performance.signature_seeds import seeds
    from tests.unit.test_answer_renderings import ANSWERS
    from tests.unit.test_answer_renderings import test_an_answer_is_read_as_what_it_says_or_sent_back as fuzzed

#: Not a temporary directory: libFuzzer ends the process without Python's clean-up.
_DIRECTORY = Path("build/fuzz")


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's own arguments say."""
    finds, unpacked = _DIRECTORY / "answers", _DIRECTORY / "answer_seeds"
    for directory in (finds, unpacked):
        directory.mkdir(parents=True, exist_ok=True)
    for name, data in seeds(ANSWERS).items():
        (unpacked / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(finds), str(unpacked), *sys.argv[1:]], fuzzed.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
    atheris.Fuzz()


if __name__ == "__main__":
    main()
