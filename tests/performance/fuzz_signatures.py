"""Fuzz the readers of signatures: garbage gives SignatureSyntaxError with a place inside the text, and nothing else.

Needs atheris (``uv pip install atheris``). Run it with

    python -m tests.performance.fuzz_signatures -max_total_time=600 -max_len=400

Texts that reach new code are written to ``build/fuzz/finds``; tests/performance/signature_seeds.py adds them to the
seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["dspex.signatures"]):
    from tests.performance.signature_seeds import check, seeds

#: Not a temporary directory: libFuzzer ends the process without Python's clean-up.
_DIRECTORY = Path("build/fuzz")


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's own arguments say."""
    finds, unpacked = _DIRECTORY / "finds", _DIRECTORY / "seeds"
    for directory in (finds, unpacked):
        directory.mkdir(parents=True, exist_ok=True)
    for name, text in seeds().items():
        (unpacked / name).write_bytes(text)
    atheris.Setup([sys.argv[0], str(finds), str(unpacked), *sys.argv[1:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
