"""What reading the slowest text costs, for each reader of answers and texts that tests/unit/test_linear_time.py checks.

    python -m tests.performance.linear_table

Each reader gets the text that is slowest at a small size, in sizes that are doubled up to its largest. ``ratio`` is the
time over that of half the size: 2 is linear, 4 quadratic.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from dspy.utils.exceptions import AdapterParseError

from dspex import signature
from dspex.errors import DspexError
from tests.unit.test_linear_time import FENCES, LARGEST, READERS, SCALARS, TYPES, Read

Text = tuple[str, str, str]

#: The size at which the slowest text is chosen, how often each is read, and the longest time of a row.
CHOOSING, TIMES, LONGEST_SECONDS = 2**13, 3, 2.0
SMALLEST_SHOWN = 2**18


def content(text: Text, size: int) -> str:
    before, repeated, after = text
    return before + repeated * (size // len(repeated)) + after


def seconds(read: Read, given: str) -> float:
    """The shortest CPU time of a few readings."""
    found = []
    for _ in range(TIMES):
        began = time.process_time()
        with suppress(AdapterParseError, DspexError, ValueError):
            read(given)
        found.append(time.process_time() - began)
    return min(found)


def value_readers() -> Iterable[tuple[str, Read]]:
    for kind in TYPES:
        compiled = signature(f"signature p: {kind} given -> {kind} found")
        yield f"value {kind}", lambda text, compiled=compiled: compiled.check_outputs({"found": text})  # type: ignore[misc]


def show(name: str, read: Read, texts: Iterable[Text], largest: int) -> None:
    slowest = max(texts, key=lambda text: seconds(read, content(text, CHOOSING)))
    size = min(SMALLEST_SHOWN, largest // 4)
    known = seconds(read, content(slowest, size // 2))
    while size <= largest and known < LONGEST_SECONDS:
        took = seconds(read, content(slowest, size))
        text = repr(slowest)[:44]
        print(f"{name[:40]:40} {text:44} {size:9,} {took * 1000:9.1f} ms {took / max(known, 1e-6):5.1f}", flush=True)
        size, known = size * 2, took


def main() -> None:
    print(f"{'reader':40} {'slowest text (before, repeated, after)':44} {'size':>9} {'time':>12} ratio")
    for name, (read, texts, largest) in READERS.items():
        show(name, read, texts, largest)
    for name, read in value_readers():
        show(name, read, [*FENCES, *SCALARS], LARGEST)


if __name__ == "__main__":
    main()
