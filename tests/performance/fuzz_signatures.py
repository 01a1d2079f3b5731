"""Fuzz the readers of signatures: garbage gives SignatureSyntaxError with a place inside the text, and nothing else.

Needs atheris (``uv pip install atheris``). Run it with

    python -m tests.performance.fuzz_signatures tests/performance/corpus -max_total_time=600 -max_len=400

New inputs that reach new code are added to the corpus. What compiles must compile again from its definition.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["dspex.signatures"]):
    from dspex.errors import SignatureSyntaxError
    from dspex.signatures.compile import compile_uncached


def check(data: bytes) -> None:
    """Compile the text; any exception that escapes is a finding."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        compiled = compile_uncached(text)
    except SignatureSyntaxError as error:
        check_place(text, error)
        return
    again = compile_uncached(compiled.definition)
    assert again == compiled
    assert again.definition == compiled.definition


def check_place(text: str, error: SignatureSyntaxError) -> None:
    """The error's place is inside the text."""
    lines = text.split("\n")
    assert 1 <= error.line <= len(lines)
    assert 1 <= error.column <= len(lines[error.line - 1]) + 1
    assert str(error)


def main() -> None:
    """Fuzz until stopped, or as libFuzzer's own arguments say."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
